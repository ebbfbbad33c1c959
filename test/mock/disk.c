/*
 * Preloaded into a server under test: a disk that stands still or fails where the cache files of weights are made. SERM_DISK names a
 * file of numbers that the test writes while the server runs, and reads.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { STILL, FAULT, RESERVED, RENAMED, STANDING, NUMBERS };
enum { AT_RESERVING = 1, AT_RENAMING };          /* STILL: where whoever comes by waits until it is 0 again */
enum { NO_FLUSH_OF_DIRECTORY = 1, NO_ROOM = 2 }; /* FAULT */

static volatile int64_t *disk;

__attribute__((constructor)) static void
find_disk(void)
{
	const char *path = getenv("SERM_DISK");
	int file = path == NULL ? -1 : open(path, O_RDWR);
	void *found = file < 0 ? MAP_FAILED : mmap(NULL, NUMBERS * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

	if (found != MAP_FAILED)
		disk = found;
	if (file >= 0)
		close(file);
}

static void
stand(int64_t where)
{
	__sync_fetch_and_add(&disk[STANDING], 1);
	while (disk[STILL] == where)
		usleep(1000);
	__sync_fetch_and_sub(&disk[STANDING], 1);
}

/* Whether this path, or that of this file, ends in or contains what is looked for. */
static int
is_cache(const char *path, int file, const char *what)
{
	char link[40], found[1000];
	ssize_t length;

	if (disk == NULL)
		return 0;
	if (path != NULL)
		return strstr(path, what) != NULL;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
	length = readlink(link, found, sizeof(found) - 1);
	if (length < 0)
		return 0;
	found[length] = '\0';
	return strstr(found, what) != NULL;
}

int
posix_fallocate(int file, off_t offset, off_t length)
{
	static int (*next)(int, off_t, off_t);

	if (next == NULL)
		*(void **) &next = dlsym(RTLD_NEXT, "posix_fallocate");
	if (offset == 0 && is_cache(NULL, file, "/serm/pgsql_tmp.")) {
		if (disk[FAULT] == NO_ROOM)
			return ENOSPC;
		__sync_fetch_and_add(&disk[RESERVED], 1);
		stand(AT_RESERVING);
	}
	return next(file, offset, length);
}

int
rename(const char *from, const char *to)
{
	static int (*next)(const char *, const char *);
	int result;

	if (next == NULL)
		*(void **) &next = dlsym(RTLD_NEXT, "rename");
	if (!is_cache(to, -1, "serm/pgsql_tmp."))
		return next(from, to);
	stand(AT_RENAMING);
	result = next(from, to);
	if (result == 0)
		__sync_fetch_and_add(&disk[RENAMED], 1);
	return result;
}

int
fsync(int file)
{
	static int (*next)(int);

	if (next == NULL)
		*(void **) &next = dlsym(RTLD_NEXT, "fsync");
	if (is_cache(NULL, file, "/serm") && !is_cache(NULL, file, "/serm/") && disk[FAULT] == NO_FLUSH_OF_DIRECTORY) {
		errno = EIO;
		return -1;
	}
	return next(file);
}
