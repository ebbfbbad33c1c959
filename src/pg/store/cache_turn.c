/*
 * Whose turn it is to make a cache file: one process at a time.
 *
 * Sessions wait for an advisory lock, so that waiting can be canceled and
 * deadlocks are found. The parallel workers of a session pass each other's locks,
 * so whose turn it is also has a flock() on the file under its temporary name. The
 * kernel takes that from the dead: what has a temporary name and no flock() was
 * left by a crash.
 */
#include "pg/serm.h"

#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/namespace.h"
#include "common/file_perm.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "core/base/hash.h"
#include "pg/store/internal.h"

/* A fourth field that no SQL function sets: sessions cannot take this lock by hand. */
#define LOCK_CLASS 85
/* Between two looks at whether another process of this session has made the file. */
#define LOOK_MS 10L

SermFileIs
serm_turn_look(const char *path)
{
	struct stat status;

	if (stat(path, &status) != 0)
		return (SermFileIs){0};
	return (SermFileIs){status.st_dev, status.st_ino, status.st_ctime};
}

static bool
same_file(const SermFileIs *a, const SermFileIs *b)
{
	return a->device == b->device && a->inode == b->inode && a->changed == b->changed;
}

static LOCKTAG
lock_tag(uint64 turn)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (turn >> 32), (uint32) turn, LOCK_CLASS);
	return tag;
}

/* Have the lock of a turn, until its end or that of the (sub)transaction. */
static void
take_lock(uint64 turn)
{
	const LOCKTAG tag = lock_tag(turn);
	const Oid schema = get_namespace_oid("serm", false);
	int level;

	/* Who has what is read for itself is met here, not while others wait for us. */
	LockRelationOid(get_relname_relid("version", schema), AccessShareLock);
	LockRelationOid(get_relname_relid("tensor", schema), AccessShareLock);
	/* Waiting takes no longer than the work that it saves, which no limit on locks would have ended. */
	level = NewGUCNestLevel();
	(void) set_config_option(
	    "lock_timeout", "0", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	AtEOXact_GUC(true, level);
}

int
serm_turn_open(const char *path, int flags)
{
	int file = OpenTransientFile(path, flags | O_RDWR | PG_BINARY);
	SermFileIs named;
	struct stat opened;
	int reason;

	if (file < 0)
		return -1;
	if (flock(file, LOCK_EX | LOCK_NB) == 0) {
		/* Who had it may have given it its name, or taken it away. */
		named = serm_turn_look(path);
		if (fstat(file, &opened) == 0 && opened.st_dev == named.device && opened.st_ino == named.inode)
			return file;
		errno = EWOULDBLOCK;
	}
	reason = errno;
	CloseTransientFile(file);
	errno = reason;
	return -1;
}

/* Have the file of a room for this process alone; false with errno. */
static bool
take_file(SermImageRoom *room)
{
	if (MakePGDirectory(SERM_CACHE_DIRECTORY) < 0 && errno != EEXIST)
		return false;
	while ((room->file = serm_turn_open(room->path, O_CREAT)) < 0) {
		if (errno != EWOULDBLOCK)
			return false;
		(void) WaitLatch(
		    MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

void
serm_turn_discard(SermImageRoom *room)
{
	if (room->path == NULL)
		return;
	if (room->mapped)
		munmap(room->bytes, room->length);
	room->mapped = false;
	if (room->file >= 0) {
		/* In this order: a name without a flock() is anybody's. */
		(void) unlink(room->path);
		CloseTransientFile(room->file);
	}
	room->path = NULL;
}

void
serm_turn_end(SermImageRoom *room)
{
	const LOCKTAG tag = lock_tag(room->turn);

	serm_turn_discard(room);
	(void) LockRelease(&tag, ExclusiveLock, false);
}

bool
serm_turn_take(SermImageRoom *room, const char *path, const SermFileIs *seen)
{
	SermFileIs now;

	room->turn = serm_hash_bytes(path, strlen(path), 0);
	take_lock(room->turn);
	now = serm_turn_look(path);
	if (same_file(&now, seen)) {
		if (!take_file(room)) {
			room->reason = errno;
			serm_turn_end(room);
			return true;
		}
		now = serm_turn_look(path);
		if (same_file(&now, seen))
			return true;
	}
	serm_turn_end(room);
	return false;
}
