#!/bin/sh
# Chat style, start to finish: from 1,200 casual chats in English and Italian to a balanced KTO file with undesirable
# replies of all six strategies, and a model trained on it. A minute or two on 2 cores, and no network.
#
#   sh recipes/chat_style/run.sh [FOLDER]        # FOLDER is chat_style if left out
#
# Run it from the repository root, with ktodata and ktotrain on the path (. .venv/bin/activate).
set -eu

OUT=${1:-chat_style}
CHATS=recipes/chat_style/chats.jsonl
MODEL=recipes/quickstart/model
# Matrices this small gain nothing from a second thread, and nothing here needs the network.
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$OUT"

echo "== What the strategies that need no model do to one reply"
ktodata negatives "$CHATS" --try "Giulia chiede se ci sei per il karaoke sabato" \
    "uff no... mi piacerebbe ma sono a pezzi 😩 la prossima volta giuro che vengo!"

echo "== One undesirable reply for each casual one, by one of six strategies, drawn by weight"
ktodata negatives "$CHATS" -o "$OUT/train.parquet" \
    --strategy base=1 --set base.model="$MODEL" --set base.max_tokens=48 \
    --strategy corrupt=1 --strategy contaminate=1 --strategy template=1 --strategy contextual=1 \
    --strategy paraphrase=1 --set paraphrase.manner=neutral,professional

echo "== The weights of both classes, into a copy of the recipe"
cp recipes/chat_style.toml "$OUT/chat_style.toml"
ktodata balance "$OUT/train.parquet" --write "$OUT/chat_style.toml"

echo "== Training"
ktotrain run "$OUT/chat_style.toml" --set data.train="$OUT/train.parquet" --set train.output_dir="$OUT/run"

echo "== Before and after; the replies are in $OUT/run/samples.jsonl, plots in $OUT/run/plots"
python recipes/chat_style/compare.py "$MODEL" "$OUT/run/model"
