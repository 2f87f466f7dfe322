/* LD_PRELOAD: log every write and truncation of the run file, in order: three int64 (kind, offset,
   count), and the bytes of a write. Environment: WRITE_LOG (where), WRITE_FILE (of which file). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ssize_t (*next_pwrite)(int, const void *, size_t, off64_t);
static int (*next_ftruncate)(int, off64_t);
static int log_fd = -1;

static void begin(void)
{
    if (next_pwrite) return;
    next_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    log_fd = open(getenv("WRITE_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0644);
    next_pwrite = dlsym(RTLD_NEXT, "pwrite64");
}

/* The file has another name while it is created: its own is the end of that one, or within it. */
static int is_logged(int fd)
{
    char link[64], path[4096];
    ssize_t length;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, getenv("WRITE_FILE")) && !strstr(path, ".redo");
}

static void note(int64_t kind, int64_t offset, const void *data, int64_t count)
{
    int64_t head[3] = {kind, offset, count};
    if (write(log_fd, head, sizeof head) < 0 || (data && write(log_fd, data, count) < 0)) abort();
}

ssize_t pwrite64(int fd, const void *data, size_t count, off64_t offset)
{
    begin();
    if (is_logged(fd)) note(0, offset, data, count);
    return next_pwrite(fd, data, count, offset);
}

ssize_t pwrite(int fd, const void *data, size_t count, off_t offset)
{
    return pwrite64(fd, data, count, offset);
}

int ftruncate64(int fd, off64_t size)
{
    begin();
    if (is_logged(fd)) note(1, size, NULL, 0);
    return next_ftruncate(fd, size);
}

int ftruncate(int fd, off_t size)
{
    return ftruncate64(fd, size);
}
