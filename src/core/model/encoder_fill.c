#include "core/model/encoder_fill.h"

static SermLinear
linear_at(const SermEncoderFill *fill, uint32_t index)
{
	size_t bias, weights;

	return serm_encoder_linear_at(
	    &fill->config, &fill->layout, fill->precision, fill->gemm, index, &bias, &weights);
}

bool
serm_encoder_fill_start(SermEncoderFill *fill, const SermEncoderConfig *config, SermPrecision precision,
    const SermGemmProvider *gemm, SermReal *plain, void *packed, SermArena *arena)
{
	size_t largest = 0;

	*fill = (SermEncoderFill){.config = *config,
	    .layout = serm_encoder_layout(config),
	    .precision = precision,
	    .gemm = gemm,
	    .plain = plain,
	    .packed = packed};
	for (uint32_t i = 0; i < serm_encoder_linear_count(config); i++) {
		SermLinear linear = linear_at(fill, i);
		size_t size = (size_t) linear.out * linear.in;

		largest = size > largest ? size : largest;
	}
	fill->collected = serm_arena_reserve(arena, largest * sizeof(SermReal));
	return fill->collected != NULL;
}

/* Numbers of linear layers, in the order of the flat vector. */
static void
collect(SermEncoderFill *fill, SermDtype dtype, const char *numbers, size_t count)
{
	while (count > 0) {
		SermLinear linear = linear_at(fill, fill->linear);
		size_t lacking = (size_t) linear.out * linear.in - fill->filled, taken = count;

		if (taken > lacking)
			taken = lacking;
		(void) serm_encoder_reals(dtype, numbers, taken, fill->collected + fill->filled);
		fill->filled += taken;
		numbers += taken * serm_dtype_size(dtype);
		count -= taken;
		if (taken == lacking) {
			serm_linear_pack(&linear, fill->collected, fill->packed);
			fill->packed += serm_linear_bytes(&linear);
			fill->filled = 0;
			fill->linear++;
		}
	}
}

SermStatus
serm_encoder_fill(SermEncoderFill *fill, const SermEncoderEntry *entry, size_t from, SermDtype dtype,
    const void *numbers, size_t count, SermError *error)
{
	SermStatus status = serm_encoder_numbers_check(entry->name, dtype, numbers, count, error);

	SERM_ASSERT(from + count <= entry->count);
	if (status != SERM_OK)
		return status;
	if (entry->offset < fill->layout.plain_count)
		(void) serm_encoder_reals(dtype, numbers, count, fill->plain + entry->offset + from);
	else
		collect(fill, dtype, numbers, count);
	return SERM_OK;
}
