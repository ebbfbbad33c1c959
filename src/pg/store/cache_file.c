/*
 * The cache file: one version's weights as scoring reads them, shared by all
 * backends through a read-only mapping. It is derived from serm.tensor and
 * never the truth: missing, damaged or foreign, it is made again.
 *
 * One file per (database, model, version, checksum, layout) in the directory
 * serm of the data directory. Its name starts with the prefix of temporary files, so
 * base backups leave it out. A file is written under another name, flushed and
 * renamed, and never changed afterwards: whoever maps it keeps what it mapped.
 *
 * One process at a time makes a file (cache_turn.c); the others wait and map it.
 *
 * Layout, in the byte order of the machine: Header, Entry[tensor_count], data.
 * `crc` covers all that follows the header, `header_crc` the header before it.
 */
#include "pg/serm.h"

#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "common/file_perm.h"
#include "common/file_utils.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"

#include "core/base/hash.h"
#include "pg/store/internal.h"

#define FILE_PREFIX PG_TEMP_FILE_PREFIX "."
#define TEMPORARY_SUFFIX ".tmp"
#define MAGIC UINT64CONST(0x316c69666d726573) /* "sermfil1" in the byte order of this machine */
/* Also when kernels lay weights out differently: a file of before is made again. */
#define FORMAT 2
/* Between two looks at interrupts. */
#define WRITE_BYTES ((Size) 8 * 1024 * 1024)
#define CHECK_BYTES ((Size) 32 * 1024 * 1024)

typedef struct Header {
	uint64 magic;
	uint32 format;
	uint32 tensor_count;
	uint64 length; /* of the file */
	uint64 database;
	SermImageKey key;
	uint8 unused[8];
	uint32 crc;
	uint32 header_crc;
} Header;

typedef struct Entry {
	char name[SERM_TENSOR_NAME_MAX];
	uint32 dtype;
	uint32 rank;
	uint64 shape[SERM_TENSOR_RANK_MAX];
	uint64 offset;
	uint64 bytes;
	uint64 unused;
} Entry;

StaticAssertDecl(sizeof(Header) == 128, "the header is two cache lines");
StaticAssertDecl(sizeof(Entry) == 128, "an entry is two cache lines");

void
serm_image_key(SermImageKey *key, const char *model, int version, uint64 checksum)
{
	memset(key, 0, sizeof(*key));
	strlcpy(key->model, model, sizeof(key->model));
	key->version = version;
	key->checksum = checksum;
}

/* --- the image */

Size
serm_image_data_start(uint32 count)
{
	return sizeof(Header) + count * sizeof(Entry);
}

void
serm_image_describe(unsigned char *bytes, uint32 index, const SermTensor *tensor, Size offset)
{
	Entry *entry = (Entry *) (bytes + sizeof(Header)) + index;

	strlcpy(entry->name, tensor->name, sizeof(entry->name));
	entry->dtype = tensor->dtype;
	entry->rank = tensor->rank;
	memcpy(entry->shape, tensor->shape, sizeof(entry->shape));
	entry->offset = offset;
	entry->bytes = tensor->bytes;
}

/* Of all that follows the header. Interrupts are served. */
static uint32
image_crc(const unsigned char *bytes, Size length)
{
	uint32 crc = 0;

	for (Size at = sizeof(Header); at < length; at += CHECK_BYTES) {
		CHECK_FOR_INTERRUPTS();
		crc = serm_crc32c(crc, bytes + at, Min(length - at, CHECK_BYTES));
	}
	return crc;
}

void
serm_image_seal(unsigned char *bytes, Size length, const SermImageKey *key, uint32 tensor_count)
{
	Header *header = (Header *) bytes;

	header->magic = MAGIC;
	header->format = FORMAT;
	header->tensor_count = tensor_count;
	header->length = length;
	header->database = MyDatabaseId;
	header->key = *key;
	header->crc = image_crc(bytes, length);
	header->header_crc = serm_crc32c(0, header, offsetof(Header, header_crc));
}

static bool
entry_is_sound(const Entry *entry, Size start, Size length)
{
	size_t bytes;

	return memchr(entry->name, '\0', sizeof(entry->name)) != NULL && entry->dtype < SERM_DTYPE_COUNT &&
	       entry->rank <= SERM_TENSOR_RANK_MAX && entry->offset % SERM_ARENA_ALIGN == 0 &&
	       entry->offset >= start && entry->offset <= length && entry->bytes <= length - entry->offset &&
	       serm_tensor_bytes(entry->dtype, entry->rank, entry->shape, &bytes) && bytes == entry->bytes;
}

/* Whether these bytes are what serm_image_seal() made of this version. */
static bool
image_is_sound(const unsigned char *bytes, Size length, const SermImageKey *key)
{
	const Header *header = (const Header *) bytes;
	const Entry *entries = (const Entry *) (bytes + sizeof(Header));
	Size start;

	if (length < sizeof(Header) || header->magic != MAGIC || header->format != FORMAT ||
	    header->length != length || header->database != MyDatabaseId ||
	    memcmp(&header->key, key, sizeof(*key)) != 0 || header->tensor_count > SERM_TENSORS_MAX ||
	    header->header_crc != serm_crc32c(0, header, offsetof(Header, header_crc)))
		return false;
	start = serm_image_data_start(header->tensor_count);
	if (start > length || header->crc != image_crc(bytes, length))
		return false;
	for (uint32 i = 0; i < header->tensor_count; i++)
		if (!entry_is_sound(&entries[i], start, length))
			return false;
	return true;
}

SermTensorSet
serm_image_tensors(const SermImage *image)
{
	const Header *header = (const Header *) image->bytes;
	const Entry *entries = (const Entry *) (image->bytes + sizeof(Header));
	SermTensor *tensors = palloc0((header->tensor_count + 1) * sizeof(SermTensor));

	for (uint32 i = 0; i < header->tensor_count; i++) {
		strlcpy(tensors[i].name, entries[i].name, sizeof(tensors[i].name));
		tensors[i].dtype = entries[i].dtype;
		tensors[i].rank = entries[i].rank;
		memcpy(tensors[i].shape, entries[i].shape, sizeof(tensors[i].shape));
		tensors[i].data = image->bytes + entries[i].offset;
		tensors[i].bytes = entries[i].bytes;
	}
	return (SermTensorSet){tensors, header->tensor_count};
}

/* --- the file */

static void
file_path(char *path, const SermImageKey *key)
{
	snprintf(path, MAXPGPATH, SERM_CACHE_DIRECTORY "/" FILE_PREFIX "%u.%s.%d.%016" PRIx64 "%s%s",
	    MyDatabaseId, key->model, key->version, (uint64_t) key->checksum,
	    key->layout != SERM_LAYOUT_F32 ? "." : "",
	    key->layout != SERM_LAYOUT_F32 ? serm_layout_name(key->layout) : "");
}

/* Map the file of a version; false when it is not there or not sound: then *seen is what was tried. */
static bool
map_file(const char *path, const SermImageKey *key, SermImage *image, SermFileIs *seen)
{
	int file;
	struct stat status;
	void *volatile bytes = MAP_FAILED;
	volatile Size length = 0;
	volatile bool sound = false;

	*seen = serm_turn_look(path);
	file = OpenTransientFile(path, O_RDONLY | PG_BINARY);
	if (file < 0)
		return false;
	if (fstat(file, &status) == 0 && status.st_size >= (off_t) sizeof(Header)) {
		length = (Size) status.st_size;
		bytes = mmap(NULL, length, PROT_READ, MAP_SHARED, file, 0);
	}
	CloseTransientFile(file);
	if (bytes == MAP_FAILED)
		return false;
	PG_TRY();
	{
		sound = image_is_sound(bytes, length, key);
	}
	PG_CATCH();
	{
		munmap(bytes, length);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (!sound) {
		munmap(bytes, length);
		return false;
	}
	*image = (SermImage){bytes, length, true};
	return true;
}

/* --- making the file */

/*
 * Blocks for all of a file: a page of its mapping that finds none when it is written would end the process.
 * False with errno.
 */
static bool
reserve_file(int file, Size length)
{
	for (Size at = 0; at < length; at += WRITE_BYTES) {
		int result;

		do {
			CHECK_FOR_INTERRUPTS();
			result = posix_fallocate(file, (off_t) at, (off_t) Min(WRITE_BYTES, length - at));
		} while (result == EINTR);
		errno = result;
		if (result != 0)
			return false;
	}
	return true;
}

/* Map the file of a room, all of it zero; false with errno. */
static bool
map_room(SermImageRoom *room, Size length)
{
	void *bytes = MAP_FAILED;

	/* A crash may have left something in it. */
	if (ftruncate(room->file, 0) == 0 && reserve_file(room->file, length))
		bytes = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, room->file, 0);
	if (bytes == MAP_FAILED)
		return false;
	room->bytes = bytes;
	room->length = length;
	room->mapped = true;
	return true;
}

unsigned char *
serm_image_room(SermImageRoom *room, Size length)
{
	unsigned char *block;

	if (room->path != NULL) {
		if (map_room(room, length))
			return room->bytes;
		room->reason = errno;
		/* Nobody is to wait for what they cannot share. */
		serm_turn_end(room);
	}
	block = MemoryContextAllocHuge(room->context, add_size(length, SERM_ARENA_ALIGN));
	block = (unsigned char *) TYPEALIGN64(SERM_ARENA_ALIGN, (uintptr_t) block);
	for (Size at = 0; at < length; at += WRITE_BYTES) {
		CHECK_FOR_INTERRUPTS();
		memset(block + at, 0, Min(WRITE_BYTES, length - at));
	}
	return block;
}

/* Put a complete image on the disk, part by part, so that nobody waits for all of it. False with errno. */
static bool
flush_room(const SermImageRoom *room)
{
	for (Size at = 0; enableFsync && at < room->length; at += WRITE_BYTES) {
		CHECK_FOR_INTERRUPTS();
		if (msync(room->bytes + at, Min(WRITE_BYTES, room->length - at), MS_SYNC) != 0)
			return false;
	}
	return mprotect(room->bytes, room->length, PROT_READ) == 0;
}

/* --- files that nobody needs any more */

static SermPlan exists_plan = {
    "SELECT 1 FROM serm.version AS v WHERE v.model = $1 AND v.version = $2 AND v.checksum = $3", 3,
    {TEXTOID, INT4OID, INT8OID}, NULL};

static bool
is_temporary(const char *name)
{
	const Size length = strlen(name), suffix = strlen(TEMPORARY_SUFFIX);

	return strncmp(name, FILE_PREFIX, strlen(FILE_PREFIX)) == 0 && length > suffix &&
	       strcmp(name + length - suffix, TEMPORARY_SUFFIX) == 0;
}

/* Remove a temporary file whose maker is gone. */
static void
remove_temporary(const char *path)
{
	int file = serm_turn_open(path, 0);

	if (file < 0)
		return;
	(void) unlink(path);
	CloseTransientFile(file);
}

/* What follows the checksum in a name that file_path() made. */
static bool
is_layout(const char *suffix)
{
	for (int layout = SERM_LAYOUT_F32 + 1; layout < SERM_LAYOUT_COUNT; layout++)
		if (suffix[0] == '.' && strcmp(suffix + 1, serm_layout_name(layout)) == 0)
			return true;
	return suffix[0] == '\0';
}

/* Whether the file of this name, made by file_path(), belongs to nothing that exists. */
static bool
is_leftover(const char *name)
{
	char model[NAMEDATALEN];
	unsigned int database;
	int version, end = 0;
	uint64_t checksum;
	Datum values[3];

	if (sscanf(name, FILE_PREFIX "%u.%48[a-z0-9_].%d.%16" SCNx64 "%n", &database, model, &version, &checksum,
	        &end) != 4 ||
	    end == 0 || !is_layout(name + end))
		return false;
	if (database != MyDatabaseId)
		return !SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database));
	/* Whose rows are hidden from this user is not gone. */
	if (check_enable_rls(get_relname_relid("version", get_namespace_oid("serm", false)), InvalidOid, true) ==
	    RLS_ENABLED)
		return false;
	values[0] = CStringGetTextDatum(model);
	values[1] = Int32GetDatum(version);
	values[2] = Int64GetDatum((int64) checksum);
	return serm_plan_select(&exists_plan, values) == 0;
}

/* Clear away what crashes have left, and drops where versions can be read; a mistake costs one rebuild. */
static void
remove_leftovers(bool with_versions)
{
	DIR *directory = AllocateDir(SERM_CACHE_DIRECTORY);
	struct dirent *entry;

	while (directory != NULL && (entry = ReadDirExtended(directory, SERM_CACHE_DIRECTORY, LOG)) != NULL) {
		char path[MAXPGPATH * 2];

		snprintf(path, sizeof(path), SERM_CACHE_DIRECTORY "/%s", entry->d_name);
		if (is_temporary(entry->d_name))
			remove_temporary(path);
		else if (with_versions && is_leftover(entry->d_name))
			(void) unlink(path);
	}
	if (directory != NULL)
		FreeDir(directory);
}

void
serm_cache_sweep(void)
{
	remove_leftovers(false);
}

typedef struct Forgotten {
	struct Forgotten *next;
	char path[MAXPGPATH];
} Forgotten;

/* Of the running transaction, in its context. */
static Forgotten *forgotten = NULL;

static void
forget_at_end(XactEvent event, void *unused pg_attribute_unused())
{
	if (event == XACT_EVENT_COMMIT)
		for (Forgotten *file = forgotten; file != NULL; file = file->next)
			(void) unlink(file->path);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		forgotten = NULL;
}

void
serm_cache_forget_at_commit(const SermImageKey *key, int kept)
{
	static bool registered = false;
	SermImageKey each = *key;

	if (!registered) {
		RegisterXactCallback(forget_at_end, NULL);
		registered = true;
	}
	for (each.layout = 0; each.layout < SERM_LAYOUT_COUNT; each.layout++) {
		Forgotten *file;

		if (each.layout == kept)
			continue;
		file = MemoryContextAlloc(TopTransactionContext, sizeof(Forgotten));
		file_path(file->path, &each);
		file->next = forgotten;
		forgotten = file;
	}
}

/* --- opening */

/*
 * Make the image in the file of a turn, which ends; false with room->reason when there can be none. An image
 * in memory may be left.
 */
static bool
make_file(const SermImageKey *key, const char *path, bool damaged, SermImageRoom *room, SermImage *image)
{
	volatile bool made = false;

	PG_TRY();
	{
		if (damaged)
			ereport(LOG, errmsg("cache file \"%s\" is damaged and will be made again", path));
		remove_leftovers(true);
		*image = serm_weights_read(key, room);
		if (room->mapped) {
			/* The renaming also flushes the directory. */
			made = flush_room(room) && durable_rename(room->path, path, LOG) == 0;
			if (!made) {
				room->reason = errno;
				/* It may have its name already, and only the flush of that have failed. */
				(void) unlink(path);
				image->bytes = NULL;
			}
		}
	}
	PG_CATCH();
	{
		serm_turn_discard(room);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (made) {
		/* The mapping is the image's from now on. */
		room->mapped = false;
		CloseTransientFile(room->file);
		room->file = -1;
	}
	if (room->path != NULL)
		serm_turn_end(room);
	return made;
}

SermImage
serm_cache_open(const SermImageKey *key, MemoryContext context)
{
	static bool warned = false;
	char path[MAXPGPATH], temporary[MAXPGPATH + sizeof(TEMPORARY_SUFFIX)];
	SermImageRoom *room = palloc0(sizeof(SermImageRoom));
	SermFileIs seen;
	SermImage image;

	file_path(path, key);
	snprintf(temporary, sizeof(temporary), "%s" TEMPORARY_SUFFIX, path);
	do {
		if (map_file(path, key, &image, &seen))
			return image;
		*room = (SermImageRoom){.context = context, .path = temporary, .file = -1};
	} while (!serm_turn_take(room, path, &seen));
	if (make_file(key, path, seen.inode != 0, room, &image))
		return image;
	if (!warned) {
		errno = room->reason;
		ereport(WARNING, errcode_for_file_access(), errmsg("could not write cache file \"%s\": %m", path),
		    errdetail("This session keeps a copy of the weights in its own memory."),
		    errhint("Make room in the data directory, or make it writable."));
	}
	warned = true;
	/* What was written to a file that could not be kept is not trusted. */
	return image.bytes == NULL ? serm_weights_read(key, &(SermImageRoom){.context = context}) : image;
}

void
serm_cache_release(SermImage *image)
{
	if (image->mapped)
		munmap(unconstify(unsigned char *, image->bytes), image->length);
	image->mapped = false;
}
