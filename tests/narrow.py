"""What makes a wide model quick. A file of conf/model that is not here is tested as it says."""

_SMALL_ENCODER = ["model.encoder_name=tu-test_resnet"]  # timm has tiny networks for tests
NARROW = {
    "conv_autoencoder": ["model.widths=[8,16,32]", "model.latent_channels=16"],
    "deeplabv3plus": [*_SMALL_ENCODER, "model.options={decoder_channels:16}"],
    "denoising_autoencoder": ["model.widths=[8,16,32]", "model.latent_channels=16"],
    "dense_cnn": ["model.widths=[4,8]", "model.hidden_size=64"],
    "dense_cnn_16_32": ["model.widths=[4,8]", "model.hidden_size=64"],
    "dense_cnn_32_64_128": ["model.widths=[4,8,8]", "model.hidden_size=64"],
    "dense_cnn_fc1024": ["model.widths=[4,8]", "model.hidden_size=64"],
    "dpt": [
        "model.encoder_name=tu-test_vit",
        "model.options={encoder_depth:3,decoder_intermediate_channels:[8,8,8],decoder_fusion_channels:16}",
    ],
    "fc_densenet": ["model.layers=[2,2,2]", "model.growth_rate=6", "model.first_channels=8"],
    "fcn": ["model.widths=[8,16,16,16]"],
    "fpn": [*_SMALL_ENCODER, "model.options={decoder_pyramid_channels:32,decoder_segmentation_channels:64}"],
    "gated_sweep": ["model.widths=[8,16,32]", "model.sweep_levels=[1,2]", "model.head_size=8"],
    "masked_autoencoder": ["model.widths=[16,32,64]", "model.latent_channels=64"],
    "pspnet": [*_SMALL_ENCODER, "model.options={psp_out_channels:16}"],
    "region_rnn": ["model.widths=[8,16]", "model.hidden_size=48"],
    "renet": ["model.num_layers=1", "model.hidden_size=32"],
    "reseg": ["model.widths=[8,16,16]", "model.hidden_size=12"],
    "reseg_vgg": ["model.num_sweeps=1", "model.hidden_size=48", "model.up_widths=[32,32]"],
    "segformer": ["model.encoder_name=tu-test_convnext", "model.options={decoder_segmentation_channels:16}"],
    "segment_latent": ["model.widths=[8,16,32]", "model.hidden_size=16", "model.num_convs=2"],
    "segnet_basic": ["model.width=12"],
    "smp": [*_SMALL_ENCODER, "model.options={decoder_channels:[32,16,16,8,8]}"],
    "unet": ["model.widths=[8,16,32]"],
    "unetplusplus": [*_SMALL_ENCODER, "model.options={decoder_channels:[32,16,16,8,8]}"],
    "vae": ["model.widths=[8,16,32]", "model.latent_channels=8"],
    "wnet": ["model.widths=[8,16,32]"],
}
