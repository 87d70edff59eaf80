/* A disk that forgets: LD_PRELOAD this, and every file of one folder has a shadow, what a power cut would leave.
 *
 * LOSSY_FOLDER is the folder that is watched (absolute), LOSSY_SHADOW where the shadows go. fsync or fdatasync of
 * a file copies its content to SHADOW/NAME.data; fsync of the folder itself writes the names that it has to
 * SHADOW/names; rename carries a file's shadow to its new name. Nothing else does, so data that was written but
 * not synced, and files whose names were not synced, are not in the shadow. Each shadow is replaced by a rename,
 * so killing the process at any moment leaves the old one or the new one.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES (2 * PATH_MAX)

static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_rename)(const char *, const char *);

__attribute__((constructor)) static void start(void)
{
    real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    real_rename = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
}

static void die(const char *what)
{
    perror(what);
    _exit(97);
}

/* The name inside the watched folder, "" for the folder itself, NULL for anything elsewhere. */
static const char *watched(const char *path)
{
    const char *folder = getenv("LOSSY_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    if (!length || strncmp(path, folder, length) != 0)
        return NULL;
    if (path[length] == '\0')
        return "";
    return path[length] == '/' && !strchr(path + length + 1, '/') ? path + length + 1 : NULL;
}

static int create_draft(char *draft, const char *final)
{
    snprintf(draft, PATH_BYTES, "%s.draft", final);
    int out = open(draft, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (out < 0)
        die(draft);
    return out;
}

static void write_all(int out, const char *bytes, size_t size)
{
    for (ssize_t done; size; bytes += done, size -= (size_t)done)
        if ((done = write(out, bytes, size)) < 0)
            die("write to shadow");
}

static void shadow_file(int fd, const char *name)
{
    char final[PATH_BYTES], draft[PATH_BYTES], block[1 << 16];
    snprintf(final, sizeof final, "%s/%s.data", getenv("LOSSY_SHADOW"), name);
    int out = create_draft(draft, final);
    off_t at = 0;
    for (ssize_t got; (got = pread(fd, block, sizeof block, at)) != 0; at += got) {
        if (got < 0)
            die("read for shadow");
        write_all(out, block, (size_t)got);
    }
    close(out);
    if (real_rename(draft, final) != 0)
        die(final);
}

static void shadow_names(const char *folder)
{
    char final[PATH_BYTES], draft[PATH_BYTES];
    snprintf(final, sizeof final, "%s/names", getenv("LOSSY_SHADOW"));
    int out = create_draft(draft, final);
    DIR *list = opendir(folder);
    if (!list)
        die(folder);
    for (struct dirent *entry; (entry = readdir(list)) != NULL;)
        if (entry->d_type == DT_REG) {
            write_all(out, entry->d_name, strlen(entry->d_name));
            write_all(out, "\n", 1);
        }
    closedir(list);
    close(out);
    if (real_rename(draft, final) != 0)
        die(final);
}

static int synced(int fd, int result)
{
    int before = errno;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (result == 0 && length > 0) {
        path[length] = '\0';
        const char *name = watched(path);
        if (name && *name)
            shadow_file(fd, name);
        else if (name)
            shadow_names(path);
    }
    errno = before;
    return result;
}

int fsync(int fd)
{
    return synced(fd, real_fsync(fd));
}

int fdatasync(int fd)
{
    return synced(fd, real_fdatasync(fd));
}

int rename(const char *from, const char *to)
{
    int result = real_rename(from, to);
    int before = errno;
    const char *old = watched(from), *new = watched(to);
    if (result == 0 && old && new) {
        char source[PATH_BYTES], target[PATH_BYTES];
        snprintf(source, sizeof source, "%s/%s.data", getenv("LOSSY_SHADOW"), old);
        snprintf(target, sizeof target, "%s/%s.data", getenv("LOSSY_SHADOW"), new);
        if (real_rename(source, target) != 0 && errno != ENOENT)
            die(source);
    }
    errno = before;
    return result;
}
