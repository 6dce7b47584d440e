"""Images of the user's own, for the commands that use a finished run: which they are, and how they are read.

    add_reading(parser)              options.py   --scale, --alpha, --exif, --max-pixels
    find_inputs(named, out)          inputs.py    files, folders and patterns -> the image files, by name alone
    Reading.of_run(node, channels)   reading.py   opens a page of a file as the run's own images were opened

What is not said is as in training; what training did not say either, and an image needs decided, is an error that names
the option.
"""
