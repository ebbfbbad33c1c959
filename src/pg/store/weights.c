/*
 * Weights as rows: serm.tensor holds each tensor in chunks of at most 16 MiB,
 * each with the CRC-32C of its bytes, little-endian. Reading verifies every
 * chunk and that nothing is missing or doubled; a version that fails is never
 * scored with.
 */
#include "pg/serm.h"

#include "miscadmin.h"
#include "utils/array.h"

#include "core/base/hash.h"
#include "core/model/cross_encoder.h"
#include "pg/store/internal.h"

#ifdef WORDS_BIGENDIAN
#error "weights are stored little-endian and used in place"
#endif

#define CHUNK_BYTES ((Size) 16 * 1024 * 1024)

typedef struct Part {
	uint32 tensor;
	int32 part;
	uint32 crc;
	Size offset; /* in the image */
	Size bytes;
} Part;

typedef struct Layout {
	SermTensor *tensors;
	Size *offsets; /* of the tensors in the image */
	uint32 count;
	Part *parts;
	uint64 part_count;
	Size length; /* of the image */
} Layout;

static SermPlan parts_plan = {
    "SELECT t.name, t.part, t.dtype, t.shape, t.crc32c, pg_catalog.octet_length(t.data)::pg_catalog.int8 "
    "FROM serm.tensor AS t WHERE t.model = $1 AND t.version = $2 "
    "ORDER BY t.name COLLATE pg_catalog.\"C\", t.part",
    2, {TEXTOID, INT4OID}, NULL};
static SermPlan chunk_plan = {"SELECT t.data FROM serm.tensor AS t "
                              "WHERE t.model = $1 AND t.version = $2 AND t.name = $3 AND t.part = $4",
    4, {TEXTOID, INT4OID, TEXTOID, INT4OID}, NULL};

static void damaged(const SermImageKey *key, const char *what, const char *tensor, int part)
    pg_attribute_noreturn();

static void
damaged(const SermImageKey *key, const char *what, const char *tensor, int part)
{
	ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED),
	    errmsg("weights of model \"%s\" version %d are damaged: tensor \"%s\" part %d %s", key->model,
	        key->version, tensor, part, what),
	    errhint("Restore serm.tensor from a backup, or go back with SELECT serm.rollback(%s).",
	        quote_literal_cstr(key->model)));
}

/* --- the checksum of a version */

static uint64
checksum_chunk(uint64 sum, const SermTensor *tensor, int part, uint32 crc)
{
	uint64 numbers[SERM_TENSOR_RANK_MAX + 4] = {tensor->dtype, tensor->rank, (uint64) part, crc};

	for (uint32 i = 0; i < tensor->rank; i++)
		numbers[4 + i] = tensor->shape[i];
	sum = serm_hash_bytes(tensor->name, strlen(tensor->name), sum);
	return serm_hash_bytes(numbers, sizeof(numbers), sum);
}

static uint32
part_count(Size bytes)
{
	return bytes == 0 ? 1 : (uint32) ((bytes + CHUNK_BYTES - 1) / CHUNK_BYTES);
}

static Size
part_bytes(Size bytes, uint32 part)
{
	return Min(CHUNK_BYTES, bytes - part * CHUNK_BYTES);
}

uint64
serm_weights_checksum(const SermTensorSet *sorted)
{
	uint64 sum = 0;

	for (size_t i = 0; i < sorted->count; i++) {
		const SermTensor *tensor = &sorted->tensors[i];

		for (uint32 part = 0; part < part_count(tensor->bytes); part++) {
			CHECK_FOR_INTERRUPTS();
			sum = checksum_chunk(sum, tensor, part,
			    serm_crc32c(
			        0, (const char *) tensor->data + part * CHUNK_BYTES, part_bytes(tensor->bytes, part)));
		}
	}
	return sum;
}

/* --- writing */

static ArrayType *
shape_array(const SermTensor *tensor)
{
	Datum extents[SERM_TENSOR_RANK_MAX];

	for (uint32 i = 0; i < tensor->rank; i++)
		extents[i] = Int64GetDatum((int64) tensor->shape[i]);
	return construct_array(extents, tensor->rank, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
}

void
serm_weights_insert(const char *model, int version, const SermTensorSet *sorted)
{
	bytea *chunk = palloc(VARHDRSZ + CHUNK_BYTES);

	for (size_t i = 0; i < sorted->count; i++) {
		const SermTensor *tensor = &sorted->tensors[i];
		ArrayType *shape = shape_array(tensor);

		for (uint32 part = 0; part < part_count(tensor->bytes); part++) {
			Size bytes = part_bytes(tensor->bytes, part);

			CHECK_FOR_INTERRUPTS();
			SET_VARSIZE(chunk, VARHDRSZ + bytes);
			if (bytes > 0)
				memcpy(VARDATA(chunk), (const char *) tensor->data + part * CHUNK_BYTES, bytes);
			serm_spi_execute(
			    "INSERT INTO serm.tensor (model, version, name, part, dtype, shape, crc32c, data) "
			    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
			    SPI_OK_INSERT, false,
			    (SermParam[]){SERM_TEXT(model), SERM_INT4(version), SERM_TEXT(tensor->name),
			        SERM_INT4((int) part), SERM_TEXT(serm_dtype_name(tensor->dtype)),
			        SERM_DATUM(INT8ARRAYOID, PointerGetDatum(shape)),
			        SERM_INT8((int64) serm_crc32c(0, VARDATA(chunk), bytes)),
			        SERM_DATUM(BYTEAOID, PointerGetDatum(chunk))},
			    8);
		}
	}
	pfree(chunk);
}

/* --- reading */

/* Name, type and shape of row `row`; false when they could not have been stored by us. */
static bool
read_tensor(uint64 row, SermTensor *tensor)
{
	bool null;
	ArrayType *shape;
	const int64 *extents;

	memset(tensor, 0, sizeof(*tensor));
	if (strlcpy(tensor->name, serm_spi_string(row, 1), sizeof(tensor->name)) >= sizeof(tensor->name) ||
	    !serm_dtype_parse(serm_spi_string(row, 3), &tensor->dtype))
		return false;
	shape = DatumGetArrayTypeP(serm_spi_value(row, 4, &null));
	if (ARR_NDIM(shape) > 1 || ARR_HASNULL(shape) || ARR_ELEMTYPE(shape) != INT8OID)
		return false;
	tensor->rank = ARR_NDIM(shape) == 0 ? 0 : ARR_DIMS(shape)[0];
	if (tensor->rank > SERM_TENSOR_RANK_MAX)
		return false;
	extents = (const int64 *) ARR_DATA_PTR(shape);
	for (uint32 i = 0; i < tensor->rank; i++) {
		if (extents[i] < 0)
			return false;
		tensor->shape[i] = (uint64) extents[i];
	}
	return serm_tensor_bytes(tensor->dtype, tensor->rank, tensor->shape, &tensor->bytes);
}

static bool
same_tensor(const SermTensor *a, const SermTensor *b)
{
	return strcmp(a->name, b->name) == 0 && a->dtype == b->dtype && a->rank == b->rank &&
	       memcmp(a->shape, b->shape, sizeof(a->shape)) == 0;
}

static Size
align_up(Size size)
{
	return TYPEALIGN64(SERM_ARENA_ALIGN, size);
}

/* Read all rows but their data; lays the tensors out and verifies that they are complete. */
static Layout
read_layout(const SermImageKey *key)
{
	Datum values[] = {CStringGetTextDatum(key->model), Int32GetDatum(key->version)};
	uint64 rows = serm_plan_select(&parts_plan, values);
	Layout layout = {0};
	Size filled = 0; /* of the current tensor */
	uint64 sum = 0;
	bool null;

	layout.tensors = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(rows + 1, sizeof(SermTensor)));
	layout.parts = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(rows + 1, sizeof(Part)));
	layout.offsets = MemoryContextAllocHuge(CurrentMemoryContext, mul_size(rows + 1, sizeof(Size)));
	for (uint64 row = 0; row < rows; row++) {
		SermTensor tensor;
		Part *part = &layout.parts[row];
		SermTensor *last = layout.count > 0 ? &layout.tensors[layout.count - 1] : NULL;

		part->part = DatumGetInt32(serm_spi_value(row, 2, &null));
		part->crc = (uint32) DatumGetInt64(serm_spi_value(row, 5, &null));
		part->bytes = (Size) DatumGetInt64(serm_spi_value(row, 6, &null));
		if (!read_tensor(row, &tensor))
			damaged(key, "has an impossible type or shape", serm_spi_string(row, 1), part->part);
		if (part->part == 0) {
			if (last != NULL && filled != last->bytes)
				damaged(key, "is the last one and the tensor is not complete", last->name, part[-1].part);
			if (layout.count >= SERM_TENSORS_MAX)
				damaged(key, "is one tensor too many", tensor.name, 0);
			layout.tensors[layout.count] = tensor;
			layout.offsets[layout.count] = layout.length;
			layout.length = align_up(add_size(layout.length, tensor.bytes));
			last = &layout.tensors[layout.count++];
			filled = 0;
		} else if (last == NULL || !same_tensor(last, &tensor) || part->part != part[-1].part + 1)
			damaged(key, "does not continue the part before it", tensor.name, part->part);
		part->tensor = layout.count - 1;
		part->offset = layout.offsets[part->tensor] + filled;
		if (part->bytes > last->bytes - filled)
			damaged(key, "is longer than its shape says", tensor.name, part->part);
		filled += part->bytes;
		sum = checksum_chunk(sum, &tensor, part->part, part->crc);
	}
	layout.part_count = rows;
	if (rows == 0 || filled != layout.tensors[layout.count - 1].bytes || sum != key->checksum)
		ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED),
		    errmsg("weights of model \"%s\" version %d are damaged: the rows of serm.tensor do not match the "
		           "checksum of the version",
		        key->model, key->version),
		    errhint("Restore serm.tensor from a backup, or go back with SELECT serm.rollback(%s).",
		        quote_literal_cstr(key->model)));
	return layout;
}

static void
read_chunk(const SermImageKey *key, const Layout *layout, const Part *part, unsigned char *image)
{
	const char *name = layout->tensors[part->tensor].name;
	Datum values[] = {CStringGetTextDatum(key->model), Int32GetDatum(key->version), CStringGetTextDatum(name),
	    Int32GetDatum(part->part)};
	Datum stored;
	bytea *data;
	bool null;

	CHECK_FOR_INTERRUPTS();
	if (serm_plan_select(&chunk_plan, values) != 1)
		damaged(key, "is missing", name, part->part);
	stored = serm_spi_value(0, 1, &null);
	data = DatumGetByteaPP(stored);
	if (VARSIZE_ANY_EXHDR(data) != part->bytes ||
	    serm_crc32c(0, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data)) != part->crc)
		damaged(key, "does not match its checksum", name, part->part);
	memcpy(image + part->offset, VARDATA_ANY(data), part->bytes);
	/* A short chunk lies in the row itself. */
	if ((Pointer) data != DatumGetPointer(stored))
		pfree(data);
	SPI_freetuptable(SPI_tuptable);
}

/* An image of these tensors, which lie anywhere. */
static SermImage
build_image(const SermImageKey *key, const SermTensorSet *tensors, MemoryContext context)
{
	const Size start = serm_image_data_start((uint32) tensors->count);
	Size length = start, at = start;
	unsigned char *block, *image;

	for (size_t i = 0; i < tensors->count; i++)
		length = add_size(length, align_up(tensors->tensors[i].bytes));
	block = MemoryContextAllocHuge(context, add_size(length, SERM_ARENA_ALIGN));
	image = (unsigned char *) TYPEALIGN64(SERM_ARENA_ALIGN, (uintptr_t) block);
	memset(image, 0, start);
	for (size_t i = 0; i < tensors->count; i++) {
		const SermTensor *tensor = &tensors->tensors[i];
		Size room = align_up(tensor->bytes);

		serm_image_describe(image, (uint32) i, tensor, at);
		for (Size done = 0; done < tensor->bytes; done += CHUNK_BYTES) {
			CHECK_FOR_INTERRUPTS();
			memcpy(image + at + done, (const char *) tensor->data + done,
			    Min(CHUNK_BYTES, tensor->bytes - done));
		}
		memset(image + at + tensor->bytes, 0, room - tensor->bytes);
		at += room;
	}
	serm_image_seal(image, length, key, (uint32) tensors->count);
	return (SermImage){image, length, false};
}

/*
 * A cross-encoder lies in the image as it is computed with, so that backends share the laid out weights too.
 * What is stored lies in `build`, which goes before there is room for the image.
 */
static SermImage
prepare_image(
    const SermImageKey *key, const SermTensorSet *tensors, MemoryContext build, MemoryContext context)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "serm prepare", ALLOCSET_DEFAULT_SIZES);
	SermModelSettings settings = {.chunk_count = 1};
	SermTensorSet prepared;
	SermImage image;
	SermHost host;
	SermEncoderHost asked = {serm_host_keep_going, &host};
	SermError error = {SERM_OK, ""};

	serm_host_init(&host, work, SIZE_MAX);
	serm_layout_settings(key->layout, &settings);
	serm_host_check(&host,
	    serm_cross_encoder_prepare(tensors, &settings, &asked, &host.arena, &prepared, &error), &error);
	MemoryContextDelete(build);
	image = build_image(key, &prepared, context);
	MemoryContextDelete(work);
	return image;
}

/* The rows of a version as an image, the weights of a cross-encoder as they are stored. */
static SermImage
read_stored(const SermImageKey *key, MemoryContext context)
{
	Layout layout = read_layout(key);
	SPITupleTable *rows = SPI_tuptable;
	const Size start = serm_image_data_start(layout.count);
	Size length = add_size(start, layout.length);
	unsigned char *block = MemoryContextAllocHuge(context, add_size(length, SERM_ARENA_ALIGN));
	unsigned char *image = (unsigned char *) TYPEALIGN64(SERM_ARENA_ALIGN, (uintptr_t) block);

	SPI_freetuptable(rows);
	memset(image, 0, start);
	for (uint32 i = 0; i < layout.count; i++) {
		Size end = layout.offsets[i] + layout.tensors[i].bytes;

		serm_image_describe(image, i, &layout.tensors[i], start + layout.offsets[i]);
		memset(image + start + end, 0, align_up(end) - end);
	}
	for (uint64 i = 0; i < layout.part_count; i++)
		read_chunk(key, &layout, &layout.parts[i], image + start);
	serm_image_seal(image, length, key, layout.count);
	return (SermImage){image, length, false};
}

SermImage
serm_weights_read(const SermImageKey *key, MemoryContext context)
{
	MemoryContext build = AllocSetContextCreate(context, "serm stored image", ALLOCSET_SMALL_SIZES);
	SermImage stored = read_stored(key, build);
	SermTensorSet tensors = serm_image_tensors(&stored);

	if (!serm_cross_encoder_stored(&tensors))
		return stored;
	return prepare_image(key, &tensors, build, context);
}

SermTensorSet
serm_weights_stored(const SermImageKey *key, MemoryContext context)
{
	SermImage stored = read_stored(key, context);
	MemoryContext previous = MemoryContextSwitchTo(context);
	SermTensorSet tensors = serm_image_tensors(&stored);

	MemoryContextSwitchTo(previous);
	return tensors;
}
