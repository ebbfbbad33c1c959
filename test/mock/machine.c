/*
 * Preloaded into a server under test: a machine whose clock is set and whose disk is full. SERM_MACHINE names
 * a file that the test writes while the server runs, of two numbers: the microseconds that the clock is off,
 * and, if not 0, that no file of a table or index may grow. The third counts what was refused.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *machine;

__attribute__((constructor)) static void
find_machine(void)
{
	const char *path = getenv("SERM_MACHINE");
	int file = path == NULL ? -1 : open(path, O_RDWR);
	void *found = file < 0 ? MAP_FAILED : mmap(NULL, 3 * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

	if (found != MAP_FAILED)
		machine = found;
	if (file >= 0)
		close(file);
}

int
clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = (int) syscall(SYS_clock_gettime, clock, now);

	if (result == 0 && clock == CLOCK_REALTIME && machine != NULL) {
		int64_t off = now->tv_sec * 1000000 + now->tv_nsec / 1000 + machine[0];

		now->tv_nsec = off % 1000000 * 1000 + now->tv_nsec % 1000;
		now->tv_sec = off / 1000000;
	}
	return result;
}

int
gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec fine;

	(void) zone;
	clock_gettime(CLOCK_REALTIME, &fine);
	*now = (struct timeval){fine.tv_sec, fine.tv_nsec / 1000};
	return 0;
}

time_t
time(time_t *to)
{
	struct timespec fine;

	clock_gettime(CLOCK_REALTIME, &fine);
	if (to != NULL)
		*to = fine.tv_sec;
	return fine.tv_sec;
}

ssize_t
pwrite(int file, const void *bytes, size_t length, off_t offset)
{
	char link[40], path[1000];
	struct stat status;
	ssize_t found;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
	if (machine != NULL && machine[1] != 0 && fstat(file, &status) == 0 && offset >= status.st_size &&
		(found = readlink(link, path, sizeof(path) - 1)) > 0) {
		path[found] = '\0';
		if (strstr(path, "/base/") != NULL) {
			__sync_fetch_and_add(&machine[2], 1);
			errno = ENOSPC;
			return -1;
		}
	}
	return (ssize_t) syscall(SYS_pwrite64, file, bytes, length, offset);
}
