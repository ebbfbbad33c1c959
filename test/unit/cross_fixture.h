/*
 * The tensors of a small cross-encoder with a tokenizer of words.
 */
#ifndef SERM_TEST_CROSS_FIXTURE_H
#define SERM_TEST_CROSS_FIXTURE_H

#include "core/model/cross_encoder.h"
#include "core/model/cross_encoder_stored.h"
#include "core/model/model.h"
#include "encoder_fixture.h"

static inline SermText
text_of(const char *text)
{
	return (SermText){text, strlen(text)};
}

/* A tokenizer of words: [CLS] query [SEP] document [SEP]. */
static inline void
write_tokenizer(SermArena *arena, SermTensor *tensor)
{
	static const char *const names[] = {
	    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "blue", "pill", "##ow", "soft", "and"};
	static SermText pieces[SERM_LENGTH(names)];
	SermTokenizerSpec spec = {
	    .kind = SERM_TOKENIZER_WORDPIECE, .normalize = SERM_NORMALIZE_CLEAN | SERM_NORMALIZE_LOWERCASE};
	const SermTemplateItem first = {SERM_TEMPLATE_TOKEN, 2, 0}, end = {SERM_TEMPLATE_TOKEN, 3, 0};
	const unsigned char *bytes;
	size_t length = 0;
	SermError error;

	for (size_t i = 0; i < SERM_LENGTH(names); i++)
		pieces[i] = text_of(names[i]);
	spec.pieces = pieces, spec.piece_count = SERM_LENGTH(names), spec.unk_id = 1, spec.pad_id = 0;
	spec.continuing = text_of("##"), spec.word_max = 100;
	spec.single = (SermTemplate){3, {first, {SERM_TEMPLATE_FIRST, 0, 0}, end}};
	spec.pair = (SermTemplate){5,
	    {first, {SERM_TEMPLATE_FIRST, 0, 0}, end, {SERM_TEMPLATE_SECOND, 0, 1}, {SERM_TEMPLATE_TOKEN, 3, 1}}};
	CHECK(serm_tokenizer_write(&spec, arena, &bytes, &length, &error) == SERM_OK, "a tokenizer");
	*tensor = (SermTensor){.name = SERM_ENCODER_TOKENIZER_TENSOR,
	    .dtype = SERM_DTYPE_U8,
	    .rank = 1,
	    .shape = {length},
	    .data = bytes,
	    .bytes = length};
}

static inline SermTensorSet
stored_tensors(const SermEncoderConfig *config, const SermReal *flat, SermArena *arena)
{
	SermTensorSet weights;
	SermTensor *list;
	size_t length = 0;
	const char *json = serm_encoder_config_write(config, arena, &length);

	(void) serm_encoder_unflatten(config, flat, NULL, arena, &weights, &(SermError){0});
	list = serm_arena_array(arena, weights.count + 2, sizeof(*list));
	memcpy(list, weights.tensors, weights.count * sizeof(*list));
	list[weights.count] = (SermTensor){.name = SERM_ENCODER_CONFIG_TENSOR,
	    .dtype = SERM_DTYPE_U8,
	    .rank = 1,
	    .shape = {length},
	    .data = json,
	    .bytes = length};
	write_tokenizer(arena, &list[weights.count + 1]);
	return (SermTensorSet){list, weights.count + 2};
}

#endif
