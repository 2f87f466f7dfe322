"""What drivers of several vendors share."""
