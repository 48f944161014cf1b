"""Networks of radiograph projects, saved by torch, must give here what they gave there."""

import json
from collections import OrderedDict

import numpy as np
import pytest

from tests.trainer.weights_builders import Global, ReferenceDenseNet, network_of, old_format, stored, zip_format
from trainer.architectures import ARCHITECTURES, start_from
from trainer.weights import StartWeights, WeightsError, import_weights, start_weights
from trainer.weights.densenet import CHEXNET_FINDINGS, XRAYVISION_FINDINGS, read_densenet

SIZE = (64, 80)
GRAY = np.random.default_rng(3).random((2, *SIZE))
# The borders are far from any mean, so that padding with another value than torch's would show.
GRAY[0, :8], GRAY[1, :, -8:] = 1.0, 0.0
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def colours(gray):
    return (gray - MEAN[:, None, None]) / DEVIATION[:, None, None]


@pytest.fixture(scope="module")
def chexnet():
    """A network of three channels and 14 outputs, with its logits for two images."""
    network = ReferenceDenseNet(3, 14, np.random.default_rng(4)).draw(colours(GRAY[0]))
    return network.tensors, np.stack([network(colours(gray)) for gray in GRAY])


@pytest.fixture(scope="module")
def xrayvision():
    """A network of one channel and 18 outputs, with its logits for two images in [-1024, 1024]."""
    network = ReferenceDenseNet(1, 18, np.random.default_rng(5)).draw(2048 * GRAY[:1] - 1024)
    return network.tensors, np.stack([network(2048 * gray[None] - 1024) for gray in GRAY])


def old_name(name):
    """As CheXNet's checkpoint of 2017 has it: wrapped twice, dots in the dense layers' names."""
    for part in ("norm1", "norm2", "conv1", "conv2"):
        name = name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
    return "module.densenet121." + name.replace("classifier.", "classifier.0.")


def scores_of(start, findings):
    model = ARCHITECTURES["densenet121"](SIZE, findings)
    # 120 convolutions, 121 normalisations, the scores, and the scale of the input where it is not ImageNet's.
    assert start_from(model, start, findings) == 242 + ("input_scale/0" in start.tensors)
    return np.asarray(model(GRAY[..., None].astype(np.float32), training=False))


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.mark.requirement("SRS-TRN-320")
def test_chexnet_gives_here_what_it_gives_in_torch(chexnet, tmp_path):
    """Shapes cannot tell a wrong padding, epsilon or order of layers; outputs can."""
    tensors, logits = chexnet
    content, storages = stored({old_name(name): value for name, value in tensors.items()})
    checkpoint = {"epoch": 3, "best_loss": 0.15, "state_dict": content, "optimizer": {"state": {}}}
    (tmp_path / "model.pth.tar").write_bytes(old_format(checkpoint, storages))
    said = import_weights(tmp_path / "model.pth.tar", tmp_path / "chexnet.npz")
    assert said["layout"] == "chexnet"
    assert tuple(said["findings"]) == CHEXNET_FINDINGS
    assert json.loads((tmp_path / "chexnet.json").read_text()) == said
    start = start_weights(str(tmp_path / "chexnet.npz"), "densenet121")
    assert start.sha256 == said["sha256"]
    expected = sigmoid(logits)
    assert np.abs(expected[0] - expected[1]).max() > 0.02
    assert np.abs(scores_of(start, CHEXNET_FINDINGS) - expected).max() < 1e-4


@pytest.mark.requirement("SRS-TRN-321")
def test_torchxrayvision_gives_here_what_it_gives_in_torch(xrayvision, tmp_path):
    """One channel in [-1024, 1024] there, gray in [0, 1] here; such a file is a whole network, not a state dict."""
    tensors, logits = xrayvision
    content, storages = stored(tensors)
    network = network_of(
        content,
        Global("torchxrayvision.models", "DenseNet"),
        pathologies=[name.replace("_", " ").title() for name in XRAYVISION_FINDINGS],
        op_threshs=[0.1] * 17 + [float("nan")],
    )
    (tmp_path / "nih-densenet121.pt").write_bytes(zip_format(network, storages))
    said = import_weights(tmp_path / "nih-densenet121.pt", tmp_path / "xrv.npz")
    assert said["layout"] == "xrayvision"
    assert said["operating_points"] == [0.1] * 17 + [None]
    # The last output has no operating point: it never learned.
    assert tuple(said["findings"]) == (*XRAYVISION_FINDINGS[:-1], "")
    findings = ("pneumonia", "hernia", "atelectasis")
    start = start_weights(str(tmp_path / "xrv.npz"), "densenet121")
    expected = sigmoid(logits[:, [8, 13, 0]])
    assert np.abs(expected[0] - expected[1]).max() > 0.02
    assert np.abs(scores_of(start, findings) - expected).max() < 1e-4


@pytest.mark.requirement("SRS-TRN-322")
def test_a_torch_file_starts_training_without_being_imported_first(chexnet, tmp_path):
    """What `import-weights` writes is for the record and for other tools; the numbers are the same."""
    content, storages = stored(chexnet[0])
    (tmp_path / "model.pth").write_bytes(zip_format(content, storages))
    import_weights(tmp_path / "model.pth", tmp_path / "model.npz")
    direct, imported = (start_weights(str(tmp_path / name), "densenet121") for name in ("model.pth", "model.npz"))
    assert direct.findings == imported.findings == CHEXNET_FINDINGS
    assert all(np.array_equal(direct.tensors[name], value) for name, value in imported.tensors.items())
    assert direct.tensors.keys() == imported.tensors.keys()


@pytest.mark.requirement("SRS-TRN-322")
def test_scores_are_set_by_the_name_of_the_finding_or_not_at_all():
    """14 outputs in another order would fit by shape, and give pneumonia the score of a mass."""
    theirs = ARCHITECTURES["cnn"]((32, 32), ("effusion", "pneumonia", "mass", "hernia"))
    tensors = {f"{layer.name}/{i}": value for layer in theirs.layers for i, value in enumerate(layer.get_weights())}
    tensors["scores/1"] = np.arange(4, dtype=np.float32)
    start = StartWeights("drawn", "0", tensors, ("effusion", "pneumonia", "mass", ""))
    findings = ("mass", "abnormal", "pneumonia", "nodule")
    model = ARCHITECTURES["cnn"]((32, 32), findings)
    drawn = model.get_layer("scores").get_weights()[0]
    start_from(model, start)
    assert np.array_equal(model.get_layer("scores").get_weights()[0], drawn)
    start_from(model, start, findings)
    kernel, bias = model.get_layer("scores").get_weights()
    assert np.array_equal(kernel[:, [0, 2]], tensors["scores/0"][:, [2, 1]])
    assert np.array_equal(kernel[:, [1, 3]], drawn[:, [1, 3]])
    assert bias.tolist() == [2, 0, 1, 0]


@pytest.mark.requirement("SRS-TRN-322")
def test_outputs_of_no_known_order_have_no_finding(chexnet, xrayvision):
    """ImageNet's 1000 classes are a good start for the layers before them, and no score for anything in a chest."""
    tensors = {**chexnet[0], "classifier.weight": np.ones((1000, 1024), "f4"), "classifier.bias": np.ones(1000, "f4")}
    other = read_densenet(old_format(*stored(tensors)))
    assert (other.layout, other.findings) == ("other", ("",) * 1000)
    points = np.array([0.1] * 13 + [np.nan] + [0.2] * 4, "f4")
    usual = read_densenet(old_format(*stored({**xrayvision[0], "op_threshs": points})))
    assert (usual.layout, usual.findings[8], usual.findings[13]) == ("xrayvision", "pneumonia", "")
    assert usual.operating_points[17] == pytest.approx(0.2)


@pytest.mark.requirement("SRS-TRN-323")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("features.denseblock4.denselayer16.conv2.weight"), "denselayer16.conv2.weight of DenseNet"),
        (lambda t: t.update({"features.denseblock1.denselayer7.conv1.weight": np.ones(1, "f4")}), "nothing else"),
        (lambda t: t.update({"features.conv0.weight": np.ones((64, 2, 7, 7), "f4")}), "1 or 3 input channels"),
        (lambda t: t.update({"features.norm5.weight": np.ones(1664, "f4")}), r"shapes of DenseNet-121 .*\(1664,\)"),
        (lambda t: t.update({"module.features.norm5.bias": np.ones(1024, "f4")}), "several prefixes"),
    ],
)
def test_what_is_not_that_network_is_refused_with_what_was_found(chexnet, change, says):
    """A DenseNet-169 begins like a DenseNet-121; half of it must not become one."""
    tensors = dict(chexnet[0])
    change(tensors)
    with pytest.raises(WeightsError, match=says):
        read_densenet(old_format(*stored(tensors)))


@pytest.mark.requirement("SRS-TRN-323")
def test_a_file_that_is_no_densenet_is_named_in_the_error(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(old_format(*stored(OrderedDict(weight=np.ones(3, "f4")))))
    with pytest.raises(WeightsError, match=r"other\.pth: expected the tensor features\.conv0\.weight"):
        import_weights(path, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
    with pytest.raises(WeightsError, match=r"out\.h5: expected a name that ends in \.npz"):
        import_weights(path, tmp_path / "out.h5")
    with pytest.raises(WeightsError, match=r"none\.pth: expected a file of weights, found none"):
        import_weights(tmp_path / "none.pth", tmp_path / "out.npz")
