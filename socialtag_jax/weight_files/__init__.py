"""Foreign weight files of VGG16: telling them apart, reading and downloading them. Nothing is ever unpickled."""
