#!/usr/bin/env bash
# Checks on a machine with a GPU what no other machine can show. Needs the package importable, with its extras smp and
# export, and pytest; prints one line a check and exits 1 if one fails. Figures and logs go to a new output folder; paths
# are absolute, or begin where the project lies.
#   bash scripts/gpu_check.sh speed [output folder]   no step waits; benchmarks that a GPU changes: ten minutes
#   bash scripts/gpu_check.sh works [output folder]   every model and regime trains, and all commands run; prints the
#                                                     losses of one run on GPU and CPU, to be compared: ten minutes
#   CAMVID=DIR bash scripts/gpu_check.sh papers [...] CamVid at 360x480 by each paper's recipe and by ours: hours
# CAMVID=DIR also has `speed` race a tutorial's script. ON=cpu rehearses the commands where there is no GPU.
set -um # each job is a group of processes, to be ended as one
cd "$(dirname "$0")/.." || exit 1
part=${1:-}
out=${2:-outputs/gpu_check}
python=${PYTHON:-python3}
on=${ON:-gpu}
device=$([ "$on" = gpu ] && echo cuda || echo "$on")
at_once=$((($(nproc) + 3) / 4))

check() { # name, command...: beside others
    while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do wait -n; done
    (
        name=$1
        shift
        if "$@" >"$out/$name.log" 2>&1; then echo "ok      $name"; else
            echo "FAILED  $name (see $out/$name.log)"
            echo "$name" >>"$out/failed"
        fi
    ) &
}

measure() { # name, script and its options: alone
    wait
    if "$python" "scripts/benchmark/$2" "${@:3}" 2>"$out/$1.log" | tee "$out/$1.md" && [ "${PIPESTATUS[0]}" = 0 ]; then return; fi
    echo "FAILED  $1 (see $out/$1.log)"
    echo "$1" >>"$out/failed"
}

train() { # run name, overrides...
    local name=$1
    shift
    check "$name" "$python" -m segsweep "hydra.run.dir=$out/$name" "trainer=$on" "$@"
}

last_loss() { # run name -> validation loss of the last epoch
    "$python" -c "import json, sys; print(json.loads(open(sys.argv[1]).readlines()[-1])['val/loss'])" "$out/$1/metrics.jsonl"
}

speed() {
    check waits "$python" -m pytest -q -p no:cacheprovider tests/test_device.py -k "wait and $([ "$on" = gpu ] && echo cuda || echo pretended)"
    for batch in 8 64; do measure "step-$batch" step.py --device "$device" --batch-size "$batch"; done
    measure null step.py --device "$device" --model null
    if [ -n "${CAMVID:-}" ]; then measure epoch epoch.py --root "$CAMVID" --device "$on" --workers 0 2 8 --eval-steps 1; fi
    measure augment augment.py --device "$device"
    measure where where.py --device "$device" --picture "$out/step_profile_$device.svg"
    measure validation validation.py --device "$device"
    measure stack stack.py --device "$device"
    measure recurrence recurrence.py --device "$device"
    measure passes passes.py --device "$device" --batch-size 64
}

works() {
    for file in conf/model/*.yaml; do
        model=$(basename "$file" .yaml)
        train "debug-$model" experiment=debug "model=$model"
    done
    for name in first second; do train "$name" trainer.max_epochs=2 trainer.precision=32-true; done
    check cpu "$python" -m segsweep "hydra.run.dir=$out/cpu" trainer=cpu trainer.max_epochs=2 trainer.precision=32-true
    train full data.num_train=800
    for storage in device memory; do # where decoded images are kept changes no result
        train "storage-$storage" trainer.max_epochs=2 trainer.precision=32-true augment=strong "data.storage=$storage"
    done
    for strategy in ddp fsdp; do # one process is enough to see that the strategy works on a GPU
        check "$strategy" "$python" -m segsweep "hydra.run.dir=$out/$strategy" "trainer=$strategy" trainer.devices=1 "trainer.accelerator=$on" trainer.max_epochs=2 trainer.precision=32-true
    done
    for seeds in '' trainer.stack_seeds=2; do # two seeds one after the other, and as one
        check "stack${seeds##*=}" "$python" -m segsweep -m seed=0,1 "hydra.sweep.dir=$out/stack${seeds##*=}" "trainer=$on" trainer.max_epochs=2 trainer.precision=32-true $seeds
    done
    for mode in default reduce-overhead; do train "compile-$mode" trainer.max_epochs=2 "trainer.compile=$mode"; done
    wait # what follows uses a finished run
    for file in conf/regime/*.yaml; do
        regime=$(basename "$file" .yaml)
        teacher=()
        if [ "$regime" = distill ]; then teacher=("init_from=$out/full"); fi
        train "regime-$regime" "regime=$regime" model=conv_autoencoder trainer.max_epochs=2 data.num_train=400 data.labelled_fraction=0.1 ${teacher[@]+"${teacher[@]}"}
    done
    for place in cpu "$device"; do # the run that is used elsewhere than where it was trained
        check "evaluate-$place" "$python" -m segsweep.evaluate.command "$out/full" --device "$place" --out "$out/evaluate-$place"
        check "predict-$place" "$python" -m segsweep.predict.command "$out/full" "$out/full/test_examples" --device "$place" --out "$out/predict-$place"
    done
    check export "$python" -m segsweep.export.command "$out/full" --quantize int8 --half --out "$out/export"
    wait
    echo "validation loss after two epochs: GPU $(last_loss first), again $(last_loss second), CPU $(last_loss cpu)"
    echo "the same with images on the device: $(last_loss storage-device), read ahead from memory: $(last_loss storage-memory)"
    echo "in a process of its own: ddp $(last_loss ddp), fsdp $(last_loss fsdp)"
    echo "of seed 1: alone $(last_loss stack/seed=1), as one of two $(last_loss stack2/seed=1)"
    echo "test mIoU of the full run: $(grep -h '"test/miou"' "$out"/evaluate-*/full/record.json | tr -d '\n')"
    check report "$python" -m segsweep.report.command "$out"
}

papers() {
    for recipe in camvid_segnet_basic camvid_unet camvid_reseg; do
        for seed in 0 1 2; do
            train "$recipe-$seed" "experiment=$recipe" "data.root=$CAMVID" "seed=$seed"
            wait
        done
    done
    check camvid_families "$python" -m segsweep -m experiment=camvid_families "data.root=$CAMVID" "trainer=$on" "hydra.sweep.dir=$out/camvid_families"
    wait
    check report "$python" -m segsweep.report.command "$out/camvid_families"
}

case $part in
    speed | works) ;;
    papers) : "${CAMVID:?is where CamVid lies}" ;;
    *)
        grep '^#  ' scripts/gpu_check.sh
        exit 2
        ;;
esac
# In a used folder finished runs would count as trained.
if [ -n "$(ls -A "$out" 2>/dev/null)" ] || ! mkdir -p "$out"; then
    echo "error: $out: give a new or empty folder"
    exit 1
fi
trap 'for job in $(jobs -rp); do kill -- "-$job"; done' EXIT # whatever ends this ends them
trap 'exit 130' INT TERM
if [ "$on" = gpu ]; then "$python" -c "import torch; print(torch.cuda.get_device_name(), torch.__version__)" || exit 1; fi
"$part"
wait
[ ! -e "$out/failed" ]
