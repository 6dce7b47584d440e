#!/usr/bin/env bash
# Checks on a machine with a GPU what no other machine can show: every model trains there, the same run twice gives the
# same curve, and the GPU agrees with the CPU. Needs the package importable; prints one line a check, exits 1 if one fails.
#   bash scripts/gpu_check.sh [output folder]
# With CAMVID=DIR, also CamVid at 360x480 from scratch by each paper's recipe and by ours; the step that takes hours.
set -u
cd "$(dirname "$0")/.." || exit 1
out=${1:-outputs/gpu_check}
python=${PYTHON:-python3}
failed=0

check() { # name, command...
    local name=$1
    shift
    if "$@" >"$out/$name.log" 2>&1; then echo "ok      $name"; else
        echo "FAILED  $name (see $out/$name.log)"
        failed=1
    fi
}

train() { # run name, overrides...
    local name=$1
    shift
    "$python" -m segsweep "hydra.run.dir=$out/$name" trainer=gpu "$@"
}

last_loss() { # run name -> validation loss of the last epoch
    "$python" -c "import json, sys; print(json.loads(open(sys.argv[1]).readlines()[-1])['val/loss'])" "$out/$1/metrics.jsonl"
}

mkdir -p "$out"
"$python" -c "import torch; print(torch.cuda.get_device_name(), torch.__version__)" || exit 1
check device "$python" -m pytest -q tests/test_device.py
for file in conf/model/*.yaml; do
    model=$(basename "$file" .yaml)
    check "debug-$model" train "debug-$model" experiment=debug "model=$model"
done
check first train first trainer.max_epochs=2 trainer.precision=32-true
check second train second trainer.max_epochs=2 trainer.precision=32-true
check cpu train cpu trainer=cpu trainer.max_epochs=2 trainer.precision=32-true
echo "validation loss after two epochs: GPU $(last_loss first), again $(last_loss second), CPU $(last_loss cpu)"
check full train full
for storage in device memory; do # where decoded images are kept changes no result
    check "storage-$storage" train "storage-$storage" trainer.max_epochs=2 trainer.precision=32-true augment=strong "data.storage=$storage"
done
echo "validation loss with images on the device: $(last_loss storage-device), read ahead from memory: $(last_loss storage-memory)"
for file in conf/regime/*.yaml; do
    regime=$(basename "$file" .yaml)
    teacher=()
    if [ "$regime" = distill ]; then teacher=("init_from=$out/full"); fi
    check "regime-$regime" train "regime-$regime" "regime=$regime" model=conv_autoencoder trainer.max_epochs=2 data.labelled_fraction=0.1 "${teacher[@]}"
done
for device in cpu cuda; do # the run that is used elsewhere than where it was trained
    check "evaluate-$device" "$python" -m segsweep.evaluate.command "$out/full" --device "$device" --out "$out/evaluate-$device"
    check "predict-$device" "$python" -m segsweep.predict.command "$out/full" "$out/full/test_examples" --device "$device" --out "$out/predict-$device"
done
echo "test mIoU of the full run: $(grep -h '"test/miou"' "$out"/evaluate-*/full/record.json | tr -d '\n')"
check export "$python" -m segsweep.export.command "$out/full" --quantize int8 --half --out "$out/export"
for strategy in ddp fsdp; do # one process is enough to see that the strategy works on a GPU
    check "$strategy" "$python" -m segsweep "hydra.run.dir=$out/$strategy" "trainer=$strategy" trainer.devices=1 trainer.accelerator=gpu trainer.max_epochs=2 trainer.precision=32-true
done
echo "validation loss in a process of its own: ddp $(last_loss ddp), fsdp $(last_loss fsdp)"
for seeds in '' trainer.stack_seeds=2; do # two seeds one after the other, and as one
    check "stack${seeds##*=}" "$python" -m segsweep -m seed=0,1 "hydra.sweep.dir=$out/stack${seeds##*=}" trainer=gpu trainer.max_epochs=2 trainer.precision=32-true $seeds
done
echo "validation loss of seed 1: alone $(last_loss stack/seed=1), as one of two $(last_loss stack2/seed=1)"
"$python" scripts/benchmark/stack.py --device cuda || failed=1
"$python" scripts/benchmark/augment.py --device cuda || failed=1
"$python" scripts/benchmark/recurrence.py --device cuda || failed=1
for batch in 8 64; do "$python" scripts/benchmark/step.py --device cuda --batch-size "$batch" || failed=1; done
"$python" scripts/benchmark/step.py --device cuda --model null || failed=1
"$python" scripts/benchmark/where.py --device cuda --picture "$out/step_profile_cuda.svg" || failed=1
"$python" scripts/benchmark/validation.py --device cuda || failed=1
"$python" scripts/benchmark/passes.py --device cuda --batch-size 64 || failed=1
for mode in default reduce-overhead; do
    check "compile-$mode" train "compile-$mode" trainer.max_epochs=2 "trainer.compile=$mode"
done
if [ -n "${CAMVID:-}" ]; then
    "$python" scripts/benchmark/epoch.py --root "$CAMVID" --device gpu || failed=1 # against a tutorial's script
    for recipe in camvid_segnet_basic camvid_unet camvid_reseg; do
        for seed in 0 1 2; do
            check "$recipe-$seed" train "$recipe-$seed" "experiment=$recipe" "data.root=$CAMVID" "seed=$seed"
        done
    done
    check camvid_families "$python" -m segsweep -m experiment=camvid_families "data.root=$CAMVID" trainer=gpu "hydra.sweep.dir=$out/camvid_families"
    "$python" -m segsweep.report.command "$out/camvid_families" || failed=1
fi
"$python" -m segsweep.report.command "$out" || failed=1
exit $failed
