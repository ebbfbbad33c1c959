/*
 * Where the files of an imported model come from: a directory of the server,
 * or pairs of name and bytea. A file of the server is opened once, must be a
 * regular one, and its length is what it was then: one that shrinks while it is
 * read is an error, never a short tensor.
 */
#include "pg/serm.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

#include "pg/store/internal.h"

/* Between two looks at interrupts. */
#define READ_BYTES ((Size) 8 * 1024 * 1024)

static bool
open_given(SermImportSource *source, const char *name, SermImportFile *file)
{
	for (int i = 0; i < source->count; i++)
		if (strcmp(source->names[i], name) == 0) {
			source->used[i] = true;
			*file = (SermImportFile){
			    name, VARSIZE_ANY_EXHDR(source->contents[i]), -1, VARDATA_ANY(source->contents[i])};
			return true;
		}
	return false;
}

bool
serm_import_open(SermImportSource *source, const char *name, SermImportFile *file)
{
	struct stat status;
	char *path;
	int descriptor;

	if (source->directory == NULL)
		return open_given(source, name, file);
	path = psprintf("%s/%s", source->directory, name);
	/* O_NONBLOCK: a pipe would wait for a writer. */
	descriptor = OpenTransientFile(path, O_RDONLY | PG_BINARY | O_NONBLOCK);
	if (descriptor < 0) {
		if (errno == ENOENT)
			return false;
		ereport(ERROR, errcode_for_file_access(), errmsg("could not open file \"%s\" for reading: %m", path));
	}
	if (fstat(descriptor, &status) != 0)
		ereport(ERROR, errcode_for_file_access(), errmsg("could not stat file \"%s\": %m", path));
	if (!S_ISREG(status.st_mode))
		ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is not a regular file", path));
	*file = (SermImportFile){name, (uint64) status.st_size, descriptor, NULL};
	pfree(path);
	return true;
}

pg_noreturn static void
missing_bytes(const SermImportFile *file)
{
	ereport(ERROR, errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
	    errmsg("%s ends before all of it was read", file->name),
	    errhint("Import it again when nobody writes to it."));
}

void
serm_import_read(const SermImportFile *file, uint64 offset, void *out, Size bytes)
{
	if (offset > file->length || bytes > file->length - offset)
		missing_bytes(file);
	CHECK_FOR_INTERRUPTS();
	for (Size done = 0; file->descriptor < 0 && done < bytes; done += READ_BYTES) {
		CHECK_FOR_INTERRUPTS();
		memcpy((char *) out + done, file->bytes + offset + done, Min(bytes - done, READ_BYTES));
	}
	for (Size done = 0; file->descriptor >= 0 && done < bytes;) {
		ssize_t got;

		CHECK_FOR_INTERRUPTS();
		got = pread(
		    file->descriptor, (char *) out + done, Min(bytes - done, READ_BYTES), (off_t) (offset + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			ereport(ERROR, errcode_for_file_access(), errmsg("could not read file \"%s\": %m", file->name));
		if (got == 0)
			missing_bytes(file);
		done += (Size) got;
	}
}

void
serm_import_close(SermImportFile *file)
{
	if (file->descriptor >= 0)
		CloseTransientFile(file->descriptor);
	file->descriptor = -1;
}

SermText
serm_import_text(SermImportSource *source, const char *name, Size bytes_max)
{
	SermImportFile file;
	char *bytes;

	if (!serm_import_open(source, name, &file))
		return (SermText){NULL, 0};
	if (file.length > bytes_max)
		ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
		    errmsg("%s is larger than %zu bytes", file.name, bytes_max));
	bytes = palloc(file.length + 1);
	serm_import_read(&file, 0, bytes, file.length);
	bytes[file.length] = '\0';
	serm_import_close(&file);
	return (SermText){bytes, file.length};
}
