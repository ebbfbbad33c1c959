/*
 * What the files of this room share among themselves. Nobody else includes it.
 */
#ifndef SERM_PG_STORE_INTERNAL_H
#define SERM_PG_STORE_INTERNAL_H

#include "pg/store/store.h"

/* --- create.c */

typedef struct SermNewModel {
	char *name;
	char *kind;
	Datum grades; /* text[] */
	Oid log;      /* or InvalidOid */
	Oid documents;
	SermModelOptions options;
} SermNewModel;

/* Check everything but the kind and insert the row. Errors: 22023, 42710 (it exists), those of
 * serm_source_name(). */
extern void serm_model_create(const SermNewModel *new);

/* --- import_files.c: files of a directory of the server, or given as bytea */

typedef struct SermImportSource {
	const char *directory; /* or NULL: */
	int count;
	char **names;
	bytea **contents;
	bool *used;
} SermImportSource;

typedef struct SermImportFile {
	const char *name;
	uint64 length;
	int descriptor;    /* -1: the content is given */
	const char *bytes; /* then */
} SermImportFile;

/* False when there is no such file. Errors: those of the file system; 42809 when it is no regular file. */
extern bool serm_import_open(SermImportSource *source, const char *name, SermImportFile *file);
/* Copy bytes of a file. Error 22P03 when they are not there. */
extern void serm_import_read(const SermImportFile *file, uint64 offset, void *out, Size bytes);
extern void serm_import_close(SermImportFile *file);
/* The whole of a file of at most `bytes_max`, palloc'd; bytes NULL when there is none. Error 54000. */
extern SermText serm_import_text(SermImportSource *source, const char *name, Size bytes_max);

/* --- reading.c: SPI for reads */

typedef struct SermReading {
	int level;
} SermReading;

/* A statement that is planned once per backend. */
typedef struct SermPlan {
	const char *sql;
	int count;
	Oid types[4];
	SPIPlanPtr plan;
} SermPlan;

extern SermReading serm_reading_begin(SermSight sight);
extern void serm_reading_end(SermReading reading);
/* Run inside serm_reading_begin(); rows in SPI_tuptable, their number returned. No value may be NULL. */
extern uint64 serm_plan_select(SermPlan *plan, const Datum *values);

/* --- text.c */

/*
 * No server encoding needs more than two bytes for each byte that the same
 * character takes in UTF-8 (EUC_JP's three-byte Latin letters are the worst),
 * so this prefix holds all that SERM_TEXT_BYTES_MAX can ask for.
 */
#define SERM_SERVER_BYTES_MAX (2 * SERM_TEXT_BYTES_MAX)

/* --- model_row.c */

/* The options of a kind are the first so many of the table; serm_model_options_read() knows more: the shape
 * of an encoder, and what remote models have. */
extern const SermOption serm_model_option_table[];
extern int serm_model_option_count(const char *kind);
extern void serm_model_options_read(
    const char *kind, const Jsonb *given, const char *what, SermModelOptions *options);
/* JSON null means the default, also for texts. */
extern void serm_model_options_keep(SermModelOptions *options, const SermModelOptions *defaults);
/* With what was given and what was not. */
extern Jsonb *serm_model_options_write(const char *kind, const SermModelOptions *options);
/* As serm_model_read(), inside serm_reading_begin(); the row is allocated in `context`. */
extern SermModelRow *serm_model_find(const char *name, MemoryContext context);
/* Raise 42704 with a hint that lists the models there are. */
pg_noreturn extern void serm_model_unknown(const char *name);

/* --- weights.c: rows <-> image */

/*
 * The bytes of a version, as they lie in the cache file: header, table of
 * tensors, data; every tensor starts at a multiple of SERM_ARENA_ALIGN.
 */
typedef struct SermImage {
	const unsigned char *bytes;
	Size length;
	bool mapped; /* munmap() it; else it belongs to its context */
} SermImage;

typedef struct SermImageKey {
	char model[NAMEDATALEN];
	int32 version;
	int32 layout; /* SermLayout */
	uint64 checksum;
} SermImageKey;

/* Of SERM_LAYOUT_F32, which the caller may change. */
extern void serm_image_key(SermImageKey *key, const char *model, int version, uint64 checksum);

/* Insert the chunks; inside serm_spi_begin(). `sorted` is ordered by name. */
extern void serm_weights_insert(const char *model, int version, const SermTensorSet *sorted);
/* The checksum of a version: over names, types, shapes and the CRCs of the chunks, in order of name and part.
 */
extern uint64 serm_weights_checksum(const SermTensorSet *sorted);
/* Where an image is made: in a file that is mapped, or in the memory of a context. */
typedef struct SermImageRoom {
	MemoryContext context;
	const char *path; /* of the file, which this process has the turn to make; NULL: in memory */
	int file;         /* its descriptor; -1: none */
	uint64 turn;      /* whose lock it has */
	unsigned char *bytes;
	Size length;
	bool mapped;
	int reason; /* errno: why the file cannot be made */
} SermImageRoom;

/*
 * Read the rows of a version, verifying every checksum, into an image; inside serm_reading_begin(). Takes a
 * few megabytes beside the image, more only for a linear layer that is larger. Errors: XX001 with model,
 * version and tensor.
 */
extern SermImage serm_weights_read(const SermImageKey *key, SermImageRoom *room);
/* The same as tensors, those of a cross-encoder as they were stored. */
extern SermTensorSet serm_weights_stored(const SermImageKey *key, MemoryContext context);

/* --- layout.c: how weights lie in an image */

typedef enum SermLayout {
	SERM_LAYOUT_F32 = 0,
	SERM_LAYOUT_BF16,
	SERM_LAYOUT_INT8,
	SERM_LAYOUT_OPENBLAS, /* f32, for that library */
	SERM_LAYOUT_ONEDNN,
	SERM_LAYOUT_COUNT
} SermLayout;

extern const char *serm_layout_name(SermLayout layout);
/* What the model's options and serm.gemm ask for and this processor and machine have. */
extern SermLayout serm_layout_of(const SermModelRow *row);
/* The precision and the provider of a layout; the other settings stay. */
extern void serm_layout_settings(SermLayout layout, SermModelSettings *settings);

/* --- blas.c */

/* What serm.gemm asks for, if it can be had in this process: the layout of f32. */
extern SermLayout serm_blas_layout(void);
/* NULL: the built-in one. */
extern const SermGemmProvider *serm_blas_provider(SermLayout layout);

/* --- cache_turn.c: which process makes a cache file */

#define SERM_CACHE_DIRECTORY "serm"

/* Which file has a name; all 0: none. */
typedef struct SermFileIs {
	uint64 device;
	uint64 inode;
	int64 changed;
} SermFileIs;

extern SermFileIs serm_turn_look(const char *path);
/*
 * Wait until this process is the one to make the file `path`. False when another one has made it meanwhile:
 * something else than *seen has its name. True without room->path, but with room->reason, when there can be
 * no file. A turn lasts until serm_turn_end() or the end of the (sub)transaction.
 */
extern bool serm_turn_take(SermImageRoom *room, const char *path, const SermFileIs *seen);
/* Let others make the file, or find it made; what this process goes on making is in its memory. */
extern void serm_turn_end(SermImageRoom *room);
/* Take the file of a room away, if it has one; its reason stays. Enough where the transaction ends. */
extern void serm_turn_discard(SermImageRoom *room);
/* Open a temporary file that no other process has; -1 with errno, EWOULDBLOCK when one has it. */
extern int serm_turn_open(const char *path, int flags);

/* --- cache_file.c: image <-> file */

/*
 * The image of a version: mapped from the cache file, which is made when it is
 * missing or damaged; in private memory when no file can be made. Inside serm_reading_begin().
 */
extern SermImage serm_cache_open(const SermImageKey *key, MemoryContext context);
extern void serm_cache_release(SermImage *image);
/* `length` zeroed bytes, aligned to SERM_ARENA_ALIGN: of the room's file, or in memory where that cannot be
 * made. */
extern unsigned char *serm_image_room(SermImageRoom *room, Size length);
/* Fill in header and sums of an image whose table and data are complete. */
extern void serm_image_seal(unsigned char *bytes, Size length, const SermImageKey *key, uint32 tensor_count);
/* Place of the table in an image, and the size of header and table for `count` tensors, aligned. */
extern Size serm_image_data_start(uint32 count);
/* Record tensor `index`, whose data lie at `offset`. */
extern void serm_image_describe(unsigned char *bytes, uint32 index, const SermTensor *tensor, Size offset);
/* The tensors of a verified image; the set's array is palloc'd. */
extern SermTensorSet serm_image_tensors(const SermImage *image);
/* Remove the files of a version, in every layout but `kept` (-1: none), when the transaction commits. */
extern void serm_cache_forget_at_commit(const SermImageKey *key, int kept);

#endif
