"""Why a trained model decided so: attributions, what it can see, how sure it is, and how far that may be believed.

run folder -> opened run --+--> images at the size it was trained on -> prediction -> target (a class, a region)
                           |      target -> Grad-CAM, integrated gradients, occlusion; the same with random weights
                           |      softmax -> entropy; dropout, seeds -> mutual information
                           +--> gradient of the centre -> effective receptive field;  NaN -> the theoretical one
                           +--> counts of the test split -> calibration
all of it -> index.html, PNG files, explain.json, TensorBoard
"""
