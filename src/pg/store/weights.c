/*
 * Weights as rows: serm.tensor holds each tensor in chunks of at most 16 MiB,
 * each with the CRC-32C of its bytes, little-endian. Reading verifies every
 * chunk and that nothing is missing or doubled; a version that fails is never
 * scored with.
 */
#include "pg/serm.h"

#include "access/detoast.h"
#include "miscadmin.h"
#include "utils/array.h"

#include "core/base/hash.h"
#include "core/model/cross_encoder.h"
#include "pg/store/internal.h"

#ifdef WORDS_BIGENDIAN
#error "weights are stored little-endian and used in place"
#endif

#define CHUNK_BYTES ((Size) 16 * 1024 * 1024)
/* What is in memory of a chunk at a time when it is read. */
#define SLICE_BYTES ((Size) 1024 * 1024)

typedef struct Part {
	uint32 tensor;
	int32 part;
	uint32 crc;
	Size offset; /* in the tensor */
	Size bytes;
} Part;

/* The rows of a version but their data. */
typedef struct Layout {
	SermTensor *tensors;
	uint32 count;
	Part *parts;
	uint64 part_count;
} Layout;

static SermPlan parts_plan = {
    "SELECT t.name, t.part, t.dtype, t.shape, t.crc32c, pg_catalog.octet_length(t.data)::pg_catalog.int8 "
    "FROM serm.tensor AS t WHERE t.model = $1 AND t.version = $2 "
    "ORDER BY t.name COLLATE pg_catalog.\"C\", t.part",
    2, {TEXTOID, INT4OID}, NULL};
static SermPlan chunk_plan = {"SELECT t.data FROM serm.tensor AS t "
                              "WHERE t.model = $1 AND t.version = $2 AND t.name = $3 AND t.part = $4",
    4, {TEXTOID, INT4OID, TEXTOID, INT4OID}, NULL};

pg_noreturn static void damaged(const SermImageKey *key, const char *what, const char *tensor, int part);

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

/* Read all rows but their data; verifies that the tensors are complete. */
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
			last = &layout.tensors[layout.count++];
			filled = 0;
		} else if (last == NULL || !same_tensor(last, &tensor) || part->part != part[-1].part + 1)
			damaged(key, "does not continue the part before it", tensor.name, part->part);
		part->tensor = layout.count - 1;
		part->offset = filled;
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

/* Takes `length` bytes of a tensor, those behind the first `at`. */
typedef void (*TakeSlice)(void *context, Size at, const unsigned char *bytes, Size length);

/* Hand a chunk on slice by slice, and verify it. What was taken counts only if this returns. */
static void
read_part(const SermImageKey *key, const Layout *layout, const Part *part, TakeSlice take, void *context)
{
	const char *name = layout->tensors[part->tensor].name;
	Datum values[] = {CStringGetTextDatum(key->model), Int32GetDatum(key->version), CStringGetTextDatum(name),
	    Int32GetDatum(part->part)};
	SPITupleTable *rows;
	struct varlena *stored;
	uint32 crc = 0;
	bool null;

	if (serm_plan_select(&chunk_plan, values) != 1)
		damaged(key, "is missing", name, part->part);
	rows = SPI_tuptable;
	stored = (struct varlena *) DatumGetPointer(serm_spi_value(0, 1, &null));
	if (toast_raw_datum_size(PointerGetDatum(stored)) - VARHDRSZ != part->bytes)
		damaged(key, "does not match its checksum", name, part->part);
	for (Size at = 0; at < part->bytes; at += SLICE_BYTES) {
		Size length = Min(SLICE_BYTES, part->bytes - at);
		struct varlena *slice;

		CHECK_FOR_INTERRUPTS();
		slice = pg_detoast_datum_slice(stored, (int32) at, (int32) length);
		if (VARSIZE_ANY_EXHDR(slice) != length)
			damaged(key, "does not match its checksum", name, part->part);
		crc = serm_crc32c(crc, VARDATA_ANY(slice), length);
		take(context, part->offset + at, (const unsigned char *) VARDATA_ANY(slice), length);
		pfree(slice);
	}
	if (crc != part->crc)
		damaged(key, "does not match its checksum", name, part->part);
	SPI_freetuptable(rows);
}

static void
read_tensor_data(
    const SermImageKey *key, const Layout *layout, const SermTensor *tensor, TakeSlice take, void *context)
{
	for (uint64 i = 0; i < layout->part_count; i++)
		if (&layout->tensors[layout->parts[i].tensor] == tensor)
			read_part(key, layout, &layout->parts[i], take, context);
}

static void
take_bytes(void *tensor, Size at, const unsigned char *bytes, Size length)
{
	memcpy((unsigned char *) tensor + at, bytes, length);
}

/* Make room for an image of these tensors, describe them there and say where their data go. */
static SermImage
start_image(SermTensor *tensors, uint32 count, SermImageRoom *room)
{
	Size length = serm_image_data_start(count), at = length;
	unsigned char *bytes;

	for (uint32 i = 0; i < count; i++)
		length = add_size(length, align_up(tensors[i].bytes));
	bytes = serm_image_room(room, length);
	for (uint32 i = 0; i < count; i++) {
		serm_image_describe(bytes, i, &tensors[i], at);
		tensors[i].data = bytes + at;
		at += align_up(tensors[i].bytes);
	}
	return (SermImage){bytes, length, room->mapped};
}

static void *
data_of(const SermTensor *tensor)
{
	return unconstify(void *, tensor->data);
}

static SermImage
read_stored(const SermImageKey *key, Layout *layout, SermImageRoom *room)
{
	SermImage image = start_image(layout->tensors, layout->count, room);

	for (uint64 i = 0; i < layout->part_count; i++)
		read_part(
		    key, layout, &layout->parts[i], take_bytes, data_of(&layout->tensors[layout->parts[i].tensor]));
	serm_image_seal(unconstify(unsigned char *, image.bytes), image.length, key, layout->count);
	return image;
}

/* --- the weights of a cross-encoder, as they are computed with */

typedef struct Filling {
	const SermImageKey *key;
	SermEncoderFill *fill;
	SermEncoderEntry entry;
	SermDtype dtype;
} Filling;

static void
take_numbers(void *context, Size at, const unsigned char *bytes, Size length)
{
	Filling *filling = context;
	Size size = serm_dtype_size(filling->dtype);
	SermError error = {SERM_OK, ""};

	if (at % size != 0 || length % size != 0)
		damaged(filling->key, "ends within a number", filling->entry.name, (int) (at / CHUNK_BYTES));
	serm_check(serm_encoder_fill(
	               filling->fill, &filling->entry, at / size, filling->dtype, bytes, length / size, &error),
	    &error);
}

static void
fill_weights(const SermImageKey *key, const Layout *layout, SermCrossPlan *plan)
{
	const SermTensorSet stored = {layout->tensors, layout->count};
	const SermEncoderLayout places = serm_encoder_layout(&plan->config);
	Filling filling = {.key = key, .fill = &plan->fill};

	for (uint32 i = 0; i < serm_encoder_entry_count(&plan->config); i++) {
		const SermTensor *tensor;

		serm_encoder_entry(&plan->config, &places, i, &filling.entry);
		tensor = serm_tensor_find(&stored, filling.entry.name);
		filling.dtype = tensor->dtype;
		read_tensor_data(key, layout, tensor, take_numbers, &filling);
	}
}

/*
 * A cross-encoder lies in the image as it is computed with, so that backends share the laid out weights too.
 * Beside the image one linear layer and one slice of what is stored are in memory.
 */
static SermImage
prepare_image(const SermImageKey *key, Layout *layout, SermImageRoom *room)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "serm prepare", ALLOCSET_DEFAULT_SIZES);
	const SermTensorSet stored = {layout->tensors, layout->count};
	SermTensor *config = unconstify(SermTensor *, serm_tensor_find(&stored, SERM_ENCODER_CONFIG_TENSOR));
	SermModelSettings settings = {.chunk_count = 1};
	SermCrossPlan plan;
	SermImage image;
	SermHost host;
	SermError error = {SERM_OK, ""};

	serm_host_init(&host, work, SIZE_MAX);
	serm_layout_settings(key->layout, &settings);
	config->data = MemoryContextAllocHuge(work, config->bytes + 1);
	read_tensor_data(key, layout, config, take_bytes, data_of(config));
	serm_check(serm_cross_encoder_plan(&stored, &settings, &host.arena, &plan, &error), &error);
	image = start_image(plan.prepared, SERM_CROSS_TENSORS, room);
	memcpy(data_of(&plan.prepared[SERM_CROSS_CONFIG]), config->data, config->bytes);
	read_tensor_data(key, layout, serm_tensor_find(&stored, SERM_ENCODER_TOKENIZER_TENSOR), take_bytes,
	    data_of(&plan.prepared[SERM_CROSS_TOKENIZER]));
	serm_check(serm_cross_encoder_begin(&plan, &host.arena, &error), &error);
	fill_weights(key, layout, &plan);
	serm_image_seal(unconstify(unsigned char *, image.bytes), image.length, key, SERM_CROSS_TENSORS);
	MemoryContextDelete(work);
	return image;
}

SermImage
serm_weights_read(const SermImageKey *key, SermImageRoom *room)
{
	Layout layout = read_layout(key);

	SPI_freetuptable(SPI_tuptable);
	if (serm_cross_encoder_stored(&(SermTensorSet){layout.tensors, layout.count}))
		return prepare_image(key, &layout, room);
	return read_stored(key, &layout, room);
}

SermTensorSet
serm_weights_stored(const SermImageKey *key, MemoryContext context)
{
	Layout layout = read_layout(key);
	SermImageRoom room = {.context = context};
	MemoryContext previous;
	SermTensorSet tensors;
	SermImage image;

	SPI_freetuptable(SPI_tuptable);
	image = read_stored(key, &layout, &room);
	previous = MemoryContextSwitchTo(context);
	tensors = serm_image_tensors(&image);
	MemoryContextSwitchTo(previous);
	return tensors;
}
