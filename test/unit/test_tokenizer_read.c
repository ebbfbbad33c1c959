/* Reading the files of a tokenizer: what is read, and that everything else is refused. */
#include "core/model/tokenizer_read.h"
#include "unit.h"

static SermArena arena;

#define TEXT(literal) ((SermText){literal, strlen(literal)})

static SermStatus
read_files(SermTokenizerFiles files, SermTokenizerSpec *spec, SermError *error)
{
	*error = (SermError){0};
	return serm_tokenizer_read(&files, &arena, spec, error);
}

static void
refused(SermTokenizerFiles files, SermStatus expected, const char *fragment)
{
	SermTokenizerSpec spec;
	SermError error;
	SermStatus status = read_files(files, &spec, &error);

	CHECK(status == expected && strstr(error.message, fragment) != NULL, "refused: %s", fragment);
	if (status != expected || strstr(error.message, fragment) == NULL)
		printf("# %d %s\n", status, error.message);
}

static const char *
ids_of(SermTokenizerFiles files, const char *text)
{
	static char out[256];
	const SermTokenizer *tokenizer;
	SermTokenizerSpec spec;
	const unsigned char *bytes;
	const uint32_t *ids;
	uint32_t count;
	SermError error;
	size_t length, used = 0;

	out[0] = '\0';
	if (read_files(files, &spec, &error) != SERM_OK ||
	    serm_tokenizer_write(&spec, &arena, &bytes, &length, &error) != SERM_OK ||
	    serm_tokenizer_open(bytes, length, &arena, &tokenizer, &error) != SERM_OK ||
	    serm_tokenizer_encode(tokenizer, TEXT(text), 100, NULL, &arena, &ids, &count, &error) != SERM_OK) {
		printf("# %s\n", error.message);
		return "error";
	}
	for (uint32_t i = 0; i < count; i++)
		used += (size_t) snprintf(out + used, sizeof(out) - used, "%s%u", i > 0 ? " " : "", ids[i]);
	return out;
}

/* --- several files */

static void
test_wordpiece_files(void)
{
	SermTokenizerFiles files = {
	    .vocab_txt = TEXT("[PAD]\n[UNK]\r\n[CLS]\n[SEP]\n\xe2\x80\xa8\nBlue\nblue\n##s\n\xc3\xa9\n")};
	SermTokenizerSpec spec;
	SermError error;

	CHECK(read_files(files, &spec, &error) == SERM_OK && spec.piece_count == 9 && spec.pad_id == 0 &&
	          spec.unk_id == 1 && spec.single.items[0].id == 2 && spec.pair.count == 5 &&
	          spec.pair.items[4].type == 1,
	    "vocab.txt: lines end at line feeds, and special tokens are known by their names");
	CHECK(strcmp(ids_of(files, "Blues \xc3\xa9"), "6 7 1") == 0,
	    "lower case and without accents, unless it says otherwise");
	files.tokenizer_config = TEXT("{\"do_lower_case\":false,\"model_max_length\":128}");
	CHECK(strcmp(ids_of(files, "Blues blue \xc3\xa9"), "5 7 6 8") == 0 &&
	          read_files(files, &spec, &error) == SERM_OK && spec.tokens_max == 128,
	    "tokenizer_config.json says otherwise");
	files.tokenizer_config =
	    TEXT("{\"cls_token\":\"Blue\",\"sep_token\":{\"content\":\"blue\"},\"model_max_length\":1e30}");
	CHECK(read_files(files, &spec, &error) == SERM_OK && spec.single.items[0].id == 5 &&
	          spec.single.items[2].id == 6 && spec.tokens_max == 0,
	    "it may name other special tokens");
	files.tokenizer_config = TEXT("{\"truncation_side\":\"left\"}");
	refused(files, SERM_ERR_INVALID, "truncation on the left");
	files.tokenizer_config = TEXT("[1]");
	refused(files, SERM_ERR_CORRUPT, "no JSON object");
	files.tokenizer_config = TEXT("{");
	refused(files, SERM_ERR_CORRUPT, "not acceptable as JSON");
	files = (SermTokenizerFiles){.vocab_txt = TEXT("a\nb\n")};
	refused(files, SERM_ERR_CORRUPT, "no [UNK], [CLS] or [SEP]");
	refused((SermTokenizerFiles){.vocab_json = TEXT("{}")}, SERM_ERR_INVALID, "there is no tokenizer");
}

static void
test_bpe_files(void)
{
	SermTokenizerFiles files = {.vocab_json = TEXT("{\"<s>\":0,\"</s>\":1,\"a\":2,\"b\":3,\"ab\":5}"),
	    .merges = TEXT("#version: 0.2\na b\r\n\n")};
	SermTokenizerSpec spec;
	SermError error;

	CHECK(read_files(files, &spec, &error) == SERM_OK && spec.kind == SERM_TOKENIZER_BPE &&
	          spec.merge_count == 1 && spec.piece_count == 6 && spec.pieces[4].length == 0 &&
	          spec.pair.count == 6 && spec.merges[0].right.length == 1,
	    "vocab.json and merges.txt, with an id that nobody has");
	files.merges = TEXT("a b c\n");
	CHECK(read_files(files, &spec, &error) == SERM_OK && spec.merges[0].right.length == 3,
	    "a merge of three is left to the vocabulary, which does not have it");
	files.merges = TEXT("a\n");
	refused(files, SERM_ERR_CORRUPT, "line 1 of merges.txt is not two tokens");
	files.merges = TEXT("a b\n b\n");
	refused(files, SERM_ERR_CORRUPT, "line 2 of merges.txt is not two tokens");
	files.merges = TEXT("a b\n");
	files.tokenizer_config = TEXT("{\"add_prefix_space\":true}");
	refused(files, SERM_ERR_INVALID, "add_prefix_space");
	files.tokenizer_config = (SermText){NULL, 0};
	files.vocab_json = TEXT("{\"<s>\":0,\"</s>\":0}");
	refused(files, SERM_ERR_CORRUPT, "id 0 twice");
	files.vocab_json = TEXT("{\"<s>\":0,\"</s>\":1048576}");
	refused(files, SERM_ERR_CORRUPT, "no integer below");
	files.vocab_json = TEXT("{\"<s>\":0,\"</s>\":-1}");
	refused(files, SERM_ERR_CORRUPT, "no integer below");
	files.vocab_json = TEXT("{\"<s>\":0}");
	refused(files, SERM_ERR_CORRUPT, "no <s> or no </s>");
	files.vocab_json = TEXT("[]");
	refused(files, SERM_ERR_CORRUPT, "no JSON object of tokens");
}

/* --- tokenizer.json */

#define BERT_PARTS                                                                                           \
	"\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"                                                     \
	"\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"[SEP]\",1],\"cls\":[\"[CLS]\",2]}"
#define WORDPIECE                                                                                            \
	"\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"[UNK]\":0,\"[SEP]\":1,\"[CLS]\":2,\"a\":3,\"##b\":4}}"
#define UNIGRAM "\"model\":{\"unk_id\":0,\"vocab\":[[\"<u>\",0],[\"</s>\",0],[\"a\",-1.5],[\"\\u2581\",-2]]}"
#define SPACES                                                                                               \
	"\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},{\"type\":"  \
	"\"Metaspace\"}]}"
#define TEMPLATE                                                                                             \
	"\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\",\"type_"    \
	"id\":0}},"                                                                                              \
	"{\"SpecialToken\":{\"id\":\"</"                                                                         \
	"s>\",\"type_id\":0}}],\"pair\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},"                           \
	"{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}],\"special_tokens\":{\"</s>\":{\"id\":\"</"                 \
	"s>\",\"ids\":[1]}}}"

static SermTokenizerFiles
json(const char *text)
{
	return (SermTokenizerFiles){.tokenizer = TEXT(text)};
}

static void
test_json(void)
{
	SermTokenizerSpec spec;
	SermError error;

	CHECK(strcmp(ids_of(json("{" WORDPIECE "," BERT_PARTS "}"), "ab ba a"), "3 4 0 3") == 0,
	    "a small WordPiece");
	CHECK(strcmp(ids_of(json("{" UNIGRAM "," SPACES "," TEMPLATE "}"), "aa"), "3 2 2") == 0,
	    "a small Unigram without a type");
	CHECK(read_files(json("{" UNIGRAM "," SPACES "," TEMPLATE "}"), &spec, &error) == SERM_OK &&
	          spec.single.count == 2 && spec.pair.items[1].kind == SERM_TEMPLATE_SECOND &&
	          spec.pair.items[1].type == 1 && spec.scores[2] == -1.5,
	    "its template and its scores");
	CHECK(
	    read_files(json("{" WORDPIECE "," BERT_PARTS
	                    ",\"added_tokens\":[{\"id\":7,\"content\":\"x\",\"special\":true,\"lstrip\":true}]}"),
	        &spec, &error) == SERM_OK &&
	        spec.piece_count == 8 && spec.pieces[7].length == 1 && spec.added[0].lstrip &&
	        spec.added[0].special && !spec.added[0].normalized,
	    "an added token behind the vocabulary extends it");
	CHECK(read_files(json("{" WORDPIECE "," BERT_PARTS
	                      ",\"normalizer\":{\"type\":\"BertNormalizer\",\"lowercase\":false}}"),
	          &spec, &error) == SERM_OK &&
	          spec.normalize == (SERM_NORMALIZE_CLEAN | SERM_NORMALIZE_CHINESE),
	    "strip_accents follows lowercase unless it is given");
	CHECK(
	    read_files(
	        json("{" WORDPIECE "," BERT_PARTS
	             ",\"normalizer\":{\"type\":\"BertNormalizer\",\"clean_text\":false,\"handle_chinese_chars\":"
	             "false,\"strip_accents\":false}}"),
	        &spec, &error) == SERM_OK &&
	        spec.normalize == SERM_NORMALIZE_LOWERCASE,
	    "every setting of BertNormalizer is read");
	CHECK(read_files(
	          json("{" UNIGRAM "," SPACES "," TEMPLATE
	               ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Precompiled\","
	               "\"precompiled_charsmap\":\"AAECAw==\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" "
	               "{2,}\"},\"content\":\" \"}]}}"),
	          &spec, &error) == SERM_OK &&
	          spec.normalize == SERM_NORMALIZE_CHARSMAP && spec.charsmap.length == 4 &&
	          memcmp(spec.charsmap.bytes, "\0\1\2\3", 4) == 0,
	    "a map in base64; joining spaces changes nothing between words");
}

static void
test_json_refused(void)
{
	refused(json("{}"), SERM_ERR_CORRUPT, "there is no model");
	refused(json("[]"), SERM_ERR_CORRUPT, "there is no model");
	refused(json("{\"model\":{}}"), SERM_ERR_CORRUPT, "no model with a vocabulary");
	refused(json("{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}}}"), SERM_ERR_INVALID,
	    "model; WordPiece");
	refused(json("{\"model\":{\"type\":\"WordPiece\",\"vocab\":[[\"a\",0]]}}"), SERM_ERR_CORRUPT,
	    "not of the kind");
	refused(json("{\"model\":{\"type\":\"Unigram\",\"unk_id\":9,\"vocab\":[[\"a\",0]]}}"), SERM_ERR_CORRUPT,
	    "\"unk_id\"");
	refused(json("{\"model\":{\"unk_id\":0,\"byte_fallback\":true,\"vocab\":[[\"a\",0]]}}"), SERM_ERR_INVALID,
	    "byte_fallback");
	refused(
	    json("{\"model\":{\"unk_id\":0,\"vocab\":[[\"a\",\"0\"]]}}"), SERM_ERR_CORRUPT, "not [piece, score]");
	refused(json("{\"model\":{\"unk_id\":0,\"vocab\":[[\"a\"]]}}"), SERM_ERR_CORRUPT, "not [piece, score]");
	refused(json("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}"), SERM_ERR_CORRUPT,
	    "the unknown token");
	refused(json("{\"model\":{\"merges\":[\"a\"],\"vocab\":{\"a\":0}}}"), SERM_ERR_CORRUPT,
	    "a merge is not two tokens");
	refused(json("{\"model\":{\"merges\":[\"a b c\"],\"vocab\":{\"a\":0}}}"), SERM_ERR_CORRUPT,
	    "a merge is not two tokens");
	refused(json("{\"model\":{\"merges\":[[\"a\",\"b\",\"c\"]],\"vocab\":{\"a\":0}}}"), SERM_ERR_CORRUPT,
	    "a merge is not");
	refused(
	    json("{\"model\":{\"merges\":{},\"vocab\":{\"a\":0}}}"), SERM_ERR_CORRUPT, "\"merges\" is no array");
	refused(json("{\"model\":{\"merges\":[],\"dropout\":0.1,\"vocab\":{\"a\":0}}}"), SERM_ERR_INVALID,
	    "form of BPE");
	refused(json("{\"model\":{\"merges\":[],\"ignore_merges\":true,\"vocab\":{\"a\":0}}}"), SERM_ERR_INVALID,
	    "form of BPE");
	refused(json("{\"model\":{\"merges\":[],\"unk_token\":\"a\",\"vocab\":{\"a\":0}}}"), SERM_ERR_INVALID,
	    "form of BPE");
	refused(json("{" WORDPIECE "," BERT_PARTS ",\"added_tokens\":7}"), SERM_ERR_CORRUPT,
	    "\"added_tokens\" is no array");
	refused(json("{" WORDPIECE "," BERT_PARTS ",\"added_tokens\":[{\"id\":7}]}"), SERM_ERR_CORRUPT,
	    "no content or no id");
	refused(json("{" WORDPIECE "," BERT_PARTS ",\"added_tokens\":[{\"id\":4000000000,\"content\":\"x\"}]}"),
	    SERM_ERR_CORRUPT, "beyond every vocabulary");
	refused(json("{" WORDPIECE "," BERT_PARTS
	             ",\"added_tokens\":[{\"id\":7,\"content\":\"x\",\"single_word\":true}]}"),
	    SERM_ERR_INVALID, "single_word");
	refused(json("{" WORDPIECE "," BERT_PARTS ",\"normalizer\":{\"type\":\"NFKC\"}}"), SERM_ERR_INVALID,
	    "normalizer; Bert");
	refused(json("{" WORDPIECE "," BERT_PARTS ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{"
	             "\"type\":\"NFC\"},{\"type\":\"NFC\"}]}}"),
	    SERM_ERR_INVALID, "sequence of normalizers");
	refused(json("{" WORDPIECE "," BERT_PARTS ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":7}}"),
	    SERM_ERR_CORRUPT, "a sequence of normalizers");
	refused(json("{" UNIGRAM "," SPACES "," TEMPLATE
	             ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"A*==\"}}"),
	    SERM_ERR_CORRUPT, "no base64");
	refused(json("{" WORDPIECE ",\"pre_tokenizer\":{\"type\":\"Whitespace\"}}"), SERM_ERR_INVALID,
	    "with WordPiece");
	refused(json("{" WORDPIECE "}"), SERM_ERR_INVALID, "with WordPiece");
	refused(
	    json("{" UNIGRAM ",\"pre_tokenizer\":{\"type\":\"Metaspace\"}}"), SERM_ERR_INVALID, "with Unigram");
	refused(
	    json("{" UNIGRAM
	         ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"WhitespaceSplit\"},"
	         "{\"type\":\"Metaspace\",\"prepend_scheme\":\"first\"}]}}"),
	    SERM_ERR_INVALID, "with Unigram");
	refused(
	    json("{\"model\":{\"merges\":[],\"vocab\":{\"a\":0}},\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}"),
	    SERM_ERR_INVALID, "with BPE");
	refused(json("{" WORDPIECE ",\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}}"), SERM_ERR_INVALID,
	    "post-processor;");
	refused(
	    json("{" WORDPIECE ",\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"post_processor\":{\"type\":"
	         "\"BertProcessing\",\"sep\":[\"[SEP]\"]}}"),
	    SERM_ERR_CORRUPT, "names no tokens");
	refused(
	    json("{" UNIGRAM "," SPACES ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{}]}}"),
	    SERM_ERR_CORRUPT, "neither a token nor a sequence");
	refused(json("{" UNIGRAM "," SPACES ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
	             "[{\"SpecialToken\":{\"id\":\"x\",\"type_id\":0}}],\"special_tokens\":{}}}"),
	    SERM_ERR_CORRUPT, "a token without an id");
	refused(
	    json("{" UNIGRAM "," SPACES ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
	         "[{\"SpecialToken\":{\"id\":\"x\",\"type_id\":0}}],\"special_tokens\":{\"x\":{\"ids\":[99]}}}}"),
	    SERM_ERR_CORRUPT, "a token without an id");
	refused(json("{" UNIGRAM "," SPACES
	             ",\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"x\"}]}}"),
	    SERM_ERR_INVALID, "sequence of post-processors");
}

/* --- memory that ends at every place */

static SermStatus
within(size_t limit, SermTokenizerFiles files, SermText text)
{
	const SermTokenizer *tokenizer;
	SermTokenizerSpec spec;
	const unsigned char *bytes;
	const uint32_t *ids;
	uint32_t count;
	SermArena small;
	SermError error;
	SermStatus status;
	size_t length;

	serm_arena_init(&small, serm_heap_allocator(), limit);
	status = serm_tokenizer_read(&files, &small, &spec, &error);
	if (status == SERM_OK)
		status = serm_tokenizer_write(&spec, &small, &bytes, &length, &error);
	if (status == SERM_OK)
		status = serm_tokenizer_open(bytes, length, &small, &tokenizer, &error);
	if (status == SERM_OK)
		status = serm_tokenizer_encode(tokenizer, text, 1 << 20, NULL, &small, &ids, &count, &error);
	serm_arena_free(&small);
	return status;
}

static void
test_memory(void)
{
	const SermTokenizerFiles files[] = {
	    json("{" WORDPIECE "," BERT_PARTS ",\"normalizer\":{\"type\":\"BertNormalizer\"}}"),
	    json("{" UNIGRAM "," SPACES "," TEMPLATE "}"),
	    {.vocab_txt = TEXT("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n")}};
	const size_t length = 20000;
	char *text = malloc(length);

	for (size_t i = 0; i < length; i++)
		text[i] = "ab\xc3\xa9 "[i % 5];
	for (unsigned i = 0; i < SERM_LENGTH(files); i++) {
		bool good = true;
		size_t limit = 0;

		for (; limit < (8 << 20); limit += limit / 64 + 997) {
			SermStatus status = within(limit, files[i], (SermText){text, length});

			if (status == SERM_OK)
				break;
			good = good && status == SERM_ERR_MEMORY;
		}
		CHECK(good && limit > 10000 && limit < (8 << 20),
		    "with too little memory nothing but that is said (%u)", i);
	}
	free(text);
}

int
main(void)
{
	arena = unit_arena();
	test_wordpiece_files();
	test_bpe_files();
	test_json();
	test_json_refused();
	test_memory();
	serm_arena_free(&arena);
	DONE();
}
