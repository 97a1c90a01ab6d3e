/* The option table of `nibble-distill dataset`. */
#include "distill/distill_settings.h"

struct distill_options distill_settings_defaults(void)
{
    return (struct distill_options){
        .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
        .targets = "top-k",
        .k = 50,
        .draws = 12,
        .values = "8",
        .draw_temperature = 1,
        .shard_size = 64000000,
    };
}

#define AT(field) offsetof(struct distill_options, field)

static const struct operand operands[] = {
    {"TEACHER", AT(teacher), "A Hugging Face folder, a .safetensors, PyTorch, .nbl, GGUF or llama2.c file."},
    {"OUT", AT(output), "The folder to make, by custom OUT.nbd. An unfinished one is gone on with."},
};

static const struct option option_table[] = {
    {"text", OPTION_TEXT, AT(text), 0, 0, NULL, "FILE", NULL,
        "Predict this text: plain UTF-8, or JSON lines (.jsonl: `text`, or chat `messages`), either of them "
        "gzipped or "
        "not.",
        "Where the tokens come from (one of three)"},
    {"prompts", OPTION_TEXT, AT(prompts), 0, 0, NULL, "FILE", NULL,
        "Let the teacher continue each prompt: a line of a text, or JSON lines as for --text.", NULL},
    {"bos", OPTION_FLAG, AT(bos), 0, 0, NULL, NULL, NULL, "Let the teacher write from BOS alone.", NULL},
    {"length", OPTION_COUNT, AT(length), 2, 1 << 20, NULL, "N",
        "512, or the teacher's context if that is less",
        "Tokens of a sequence: of every window of a text, or at most, prompt included.", "Sequences"},
    {"unpacked", OPTION_FLAG, AT(unpacked), 0, 0, NULL, NULL, NULL,
        "Make every document of the text a sequence of its own, cut at --length, instead of joining all and "
        "cutting windows.",
        NULL},
    {"sequences", OPTION_COUNT, AT(sequences), 1, 1e12, NULL, "N", "all of a text, one per prompt",
        "Stop when so many are kept. Prompts are taken again from the first as often as needed.", NULL},
    {"attempts", OPTION_COUNT, AT(attempts), 1, 1e12, NULL, "N", "10 times --sequences",
        "Sampling: give up after so many, kept or not.", NULL},
    {"batch", OPTION_COUNT, AT(batch), 1, 1024, NULL, "B", "text: 2048 / length; sampling: 8",
        "Sequences that go through the teacher side by side. Decides the last bits of what is stored.", NULL},
    {"temperature", OPTION_NUMBER, AT(sampling.temperature), 0, 100, NULL, "T", "1",
        "Above 0. Below 1 likelier tokens gain.", "Sampling"},
    {"top-k", OPTION_COUNT, AT(sampling.top_k), 0, 1e9, NULL, "K", "0",
        "Sample among the K likeliest tokens only; 0: all.", NULL},
    {"top-p", OPTION_NUMBER, AT(sampling.top_p), 0, 1, NULL, "P", "1",
        "Sample among the likeliest tokens that together reach probability P.", NULL},
    {"min-p", OPTION_NUMBER, AT(sampling.min_p), 0, 1, NULL, "P", "0",
        "Sample among tokens at least P times as likely as the likeliest.", NULL},
    {"repetition-penalty", OPTION_NUMBER, AT(sampling.repetition_penalty), 0.01, 100, NULL, "R", "1",
        "Divide the logits of tokens that occurred already by R (multiply negative ones).", NULL},
    {"seed", OPTION_COUNT, AT(seed), 0, 0x1p53, NULL, "N", "0",
        "Of sampling and of --targets draws. The same seed gives the same dataset.", NULL},
    {"ignore-eos", OPTION_FLAG, AT(ignore_eos), 0, 0, NULL, NULL, NULL,
        "Go on after an end-of-sequence token.", NULL},
    {"targets", OPTION_CHOICE, AT(targets), 0, 0, "top-k|draws", "WHAT", "top-k",
        "top-k: the likeliest tokens and the mass of the rest. draws: tokens drawn from the teacher's "
        "distribution, unbiased and smaller (random sampling KD).",
        "What is stored per token"},
    {"k", OPTION_COUNT, AT(k), 1, TOKEN_RECORD_COUNT_LIMIT, NULL, "K", "50", "Of --targets top-k.", NULL},
    {"values", OPTION_CHOICE, AT(values), 0, 0, "8|16|32", "BITS", "8",
        "Of each log-probability of --targets top-k.", NULL},
    {"draws", OPTION_COUNT, AT(draws), 1, TOKEN_RECORD_COUNT_LIMIT, NULL, "N", "12", "Of --targets draws.",
        NULL},
    {"draw-temperature", OPTION_NUMBER, AT(draw_temperature), 0, 100, NULL, "T", "1",
        "Draw from p^(1/T) and store weights; 1 needs none.", NULL},
    {"hidden", OPTION_TEXT, AT(hidden), 0, 0, NULL, "LAYERS", "none",
        "Store the hidden states after these decoder layers (0 is the first) in half precision: \"1,3\", or "
        "all.",
        NULL},
    {"min-length", OPTION_COUNT, AT(min_length), 0, 1e9, NULL, "N", "0",
        "Leave out sequences of fewer tokens.", "Filters"},
    {"max-length", OPTION_COUNT, AT(max_length), 0, 1e9, NULL, "N", "0", "And of more; 0: none.", NULL},
    {"match", OPTION_TEXT, AT(match), 0, 0, NULL, "REGEX", NULL,
        "Keep only sequences whose text this is found in.", NULL},
    {"no-match", OPTION_TEXT, AT(no_match), 0, 0, NULL, "REGEX", NULL,
        "Leave out sequences whose text this is found in.", NULL},
    {"perplexity", OPTION_TEXT, AT(perplexity), 0, 0, NULL, "LOW-HIGH", NULL,
        "Keep only sequences whose perplexity under the teacher lies there: \"5-100\".", NULL},
    {"unique", OPTION_FLAG, AT(unique), 0, 0, NULL, NULL, NULL,
        "Leave out sequences of the same tokens as one that was kept.", NULL},
    {"pack", OPTION_FLAG, AT(pack), 0, 0, NULL, NULL, NULL,
        "Pack records with zlib, in chunks of 256; access stays random.", "The files"},
    {"shard-size", OPTION_COUNT, AT(shard_size), 1000, 1e9, NULL, "BYTES", "64M",
        "A shard is closed when it has so many bytes of records. After a kill the run goes on behind the "
        "last "
        "complete one.",
        NULL},
    {"restart", OPTION_FLAG, AT(restart), 0, 0, NULL, NULL, NULL,
        "Discard what an unfinished run left in OUT instead of going on with it.", NULL},
    COMMON_OPTIONS(struct distill_options),
};

const struct command distill_settings_command = {
    .name = "nibble-distill dataset",
    .summary = "Make a dataset of a teacher's predictions, for a student to learn from.",
    .details =
        "OUT becomes a folder: dataset.json, the teacher's tokenizer.json and shard-00000.nbd and so on.\n"
        "docs/dataset-format.md has the layout, scripts/nbd_reader.py reads it into NumPy. A killed run\n"
        "is gone on with by the same command, to the same bytes.\n"
        "\n"
        "Examples:\n"
        "  nibble-distill dataset models/folio-4M out.nbd --text models/folio-4M/calibration.txt\n"
        "  nibble-distill dataset big.nbl out.nbd --prompts prompts.jsonl --sequences 10000 --batch 32 "
        "--top-p 0.95\n"
        "  nibble-distill dataset big.nbl out.nbd --bos --sequences 10000 --targets draws --unique\n",
    .operands = operands,
    .operand_count = sizeof operands / sizeof *operands,
    .options = option_table,
    .option_count = sizeof option_table / sizeof *option_table,
};
