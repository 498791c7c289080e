#!/usr/bin/env bash
# From nothing to a fine-tuned, measured and merged model in a few minutes, without a GPU or a download of a model.
# What is there already is used again: .venv, and the training in output/quickstart.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE
export HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}  # threads that wait leave the cores to others

bold='' blue='' plain=''
if [[ -t 1 && -z "${NO_COLOR:-}" ]]; then bold=$'\033[1m' blue=$'\033[36m' plain=$'\033[0m'; fi
title() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
run() { # show a command as one would type it, then do it
    local word shown=''
    for word; do if [[ $word == *' '* ]]; then shown+=" \"$word\""; else shown+=" $word"; fi; done
    printf '%s$%s%s\n' "$blue" "$shown" "$plain"
    .venv/bin/"$@"
}

title "1/6  Install (the first time only)"
bash scripts/install.sh
title "2/6  Ask the model that comes with swift who it is"
run swift infer --model_type demo-chat --query "Who are you?"
title "3/6  Teach it to be Swifty: LoRA on 119 questions about itself, and other rows so that it forgets nothing"
run swift sft --config configs/sft/quickstart.yaml
title "4/6  Ask it again"
run swift infer --ckpt_dir output/quickstart --query "Who are you?"
title "5/6  Ask both 40 questions that neither training held, and what else they know"
run python scripts/measure_identity.py --ckpt_dir output/quickstart --count 5 || true  # a missed aim is told
title "6/6  Merge what was learnt into the model, for any program that loads transformers models"
run swift export --ckpt_dir output/quickstart --merge_lora true

title "Done. What next?"
cat <<'NEXT'
  source .venv/bin/activate                    then `swift` is a command

  swift infer --ckpt_dir output/quickstart     chat with Swifty here; `exit` ends it
  pip install -e '.[ui]' && swift app-ui --ckpt_dir output/quickstart
                                               chat on a page

  Your own data: a file with lines such as
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
  swift sft --model_type demo-chat --dataset mine.jsonl --dry_run
                                               shows what would be learnt; without --dry_run it is learnt

  Your own model: any directory or id that transformers can load
  swift sft --model_id_or_path Qwen/Qwen2.5-0.5B-Instruct --dataset mine.jsonl

  swift sft --help     every option          README.md     the rest
NEXT
