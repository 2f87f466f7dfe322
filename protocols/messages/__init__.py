"""What the processes of pyrotome say to each other, and to remote subscribers."""
