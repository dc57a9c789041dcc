import pytest
import torch
from torch import nn

from histofold.models.shells import AnySize, Shell, SoftmaxLogits, pad_to_multiple, softmax_to_sigmoid


class Net(nn.Module):
    """A network that only takes multiples of four, with an encoder."""

    def __init__(self, channels=2):
        super().__init__()
        self.encoder = nn.Conv2d(3, channels, 1)

    def forward(self, images_NCHW):
        assert images_NCHW.shape[2] % 4 == images_NCHW.shape[3] % 4 == 0
        return self.encoder(images_NCHW)


def test_shells_leave_names_and_encoder_as_they_are():
    net = Net()
    shelled = SoftmaxLogits(AnySize(net, 4))
    assert shelled.encoder is net.encoder
    assert list(shelled.state_dict()) == list(net.state_dict())
    outer = nn.Sequential(shelled)
    assert list(outer.state_dict()) == [f"0.{name}" for name in net.state_dict()]
    ones = {name: torch.ones_like(tensor) for name, tensor in outer.state_dict().items()}
    outer.load_state_dict(ones)
    assert all(tensor.eq(1).all() for tensor in net.state_dict().values())


def test_a_part_called_net_is_no_trouble():
    inner = nn.Module()
    inner.net = Net()
    inner.encoder = nn.Conv2d(3, 2, 1)
    shell = Shell(inner)
    assert list(shell.state_dict()) == list(inner.state_dict())
    shell.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in inner.state_dict().items()})
    assert not any(tensor.any() for tensor in inner.state_dict().values())


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("width", [1, 4, 7])
def test_a_pixelwise_net_is_the_same_at_any_size(height, width):
    net = Net()
    images = torch.rand(2, 3, height, width)
    with torch.inference_mode():
        torch.testing.assert_close(AnySize(net, 4)(images), net.encoder(images))


def test_padding_mirrors_where_it_can_and_repeats_where_it_cannot():
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert pad_to_multiple(image, 1) is image
    assert pad_to_multiple(image, 3)[0, 0].tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]
    padded = pad_to_multiple(image, 5)[0, 0]
    assert padded[:, :3].tolist() == [[0, 1, 2]] + [[3, 4, 5]] * 4
    assert padded[0].tolist() == [0, 1, 2, 1, 0]
    assert pad_to_multiple(torch.full((1, 1, 1, 1), 7.0), 4).eq(7).all()


@pytest.mark.parametrize("classes", [1, 2, 7])
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_the_sigmoid_of_an_evaluated_class_is_its_softmax_probability(classes, scale):
    logits = torch.randn(2, classes + 1, 5, 3) * scale
    probs = softmax_to_sigmoid(logits).sigmoid()
    assert probs.shape == (2, classes, 5, 3)
    torch.testing.assert_close(probs, logits.softmax(dim=1)[:, 1:], rtol=1e-4, atol=1e-6)


def test_softmax_gives_all_channels_in_training_and_the_classes_in_evaluation():
    model = SoftmaxLogits(Net(channels=4))
    images = torch.rand(1, 3, 4, 8)
    assert torch.equal(model.train()(images), model.net(images))
    assert torch.equal(model.eval()(images), softmax_to_sigmoid(model.net(images)))
    assert softmax_to_sigmoid(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32
