"""A pushed file becomes a version, or nothing at all."""

from __future__ import annotations

import asyncio
import errno
import io

import numpy as np
import pytest

from msrt import errors
from msrt.inference.bundle import read_manifest
from msrt.trust.identity import Purpose, verify
from tests.cloud.models import blobs, classifier
from tests.cloud.rig import prepare, simulate
from tests.runtime.hop.tree import CLOUD
from tests.runtime.inference.models import mlp


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def npz(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def test_versions_count_up_from_one_for_each_name():
    """Another model's pushes do not matter; the same file again is a version again."""

    async def scenario(rig):
        versions = [(await rig.push(mlp(seed=seed), name))["version"] for seed, name in enumerate("aabaa")]
        assert versions == [1, 2, 1, 3, 4]
        assert (await rig.push(mlp(), "team/a"))["version"] == 1
        assert (await rig.push(mlp(), "default/a"))["version"] == 5

    simulate(scenario)


def test_pushes_at_once_get_versions_of_their_own():
    """The number is given in the journal, not before."""

    async def scenario(rig):
        pushed = await asyncio.gather(*(rig.push(mlp(seed=seed)) for seed in range(5)))
        assert sorted(one["version"] for one in pushed) == [1, 2, 3, 4, 5]

    simulate(scenario)


def test_only_so_many_are_prepared_at_once():
    """Quantising is heavy; others wait their turn, and all come through."""
    running, most = 0, 0

    async def counted(path, out, options):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1
        return await prepare(path, out, options)

    async def scenario(rig):
        await asyncio.gather(*(rig.push(mlp(seed=seed)) for seed in range(5)))
        assert most == 2

    simulate(scenario, prepare=counted)


def test_the_manifest_is_signed_and_its_files_are_here():
    """What an edge will check and fetch."""

    async def scenario(rig):
        await rig.push(mlp(), labels=["cat", "dog", "cow", ""])
        fact = rig.cloud.writer.state.models["net"][1]
        verify(CLOUD.public, fact.manifest, fact.signature, Purpose.MANIFEST)
        manifest = read_manifest(fact.manifest)
        assert (manifest.model, manifest.version, manifest.labels) == ("net", 1, ("cat", "dog", "cow"))
        for variant in manifest.variants.values():
            assert len(await rig.cloud.artifacts.read(variant.digest)) == variant.size

    simulate(scenario)


def test_calibration_and_evaluation_data_reach_the_gate():
    """As .npy, as .npz by name: both variants are judged, and the report says how."""

    async def scenario(rig):
        x, y = blobs()
        upload = rig.operator.upload
        for calibration in (npy(x), npz(x=x)):
            pushed = await rig.push(
                classifier(), calibrate=await upload(calibration), eval=await upload(npz(x=x, y=y)), max_drop=0.02
            )
            assert pushed["report"]["accuracy_fp32"] > 0.9
            assert pushed["report"]["accuracy_int8"] > 0.9

    simulate(scenario)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"require": "int8"}, errors.QualityGate),
        ({"require": "int4"}, errors.InvalidConfig),
        ({"min_accuracy": 0.5}, errors.InvalidConfig),
        ({"calibrate": "0" * 64}, errors.NotFound),
        ({"name": "net@3"}, errors.InvalidAddress),
        ({"name": "No Name"}, errors.InvalidAddress),
    ],
)
def test_what_the_gate_refuses_is_not_there(options, error):
    """No version, no entry in the journal; the next good push gets the number."""

    async def scenario(rig):
        before = rig.cloud.writer.log.offset
        with pytest.raises(error):
            await rig.push(mlp(), **options)
        assert rig.cloud.writer.log.offset == before
        assert await rig.operator.ask("model.list") == []
        assert (await rig.push(mlp()))["version"] == 1

    simulate(scenario)


@pytest.mark.parametrize("least", [0.5, 0.999])
def test_a_model_below_its_least_accuracy_is_not_there(least):
    """Judged on the data it was pushed with: what is good enough passes, one point more does not."""

    async def scenario(rig):
        x, y = blobs()
        wrong = np.where(np.arange(len(y)) % 4 == 0, (y + 1) % 4, y)
        data = await rig.operator.upload(npz(x=x, y=wrong))
        push = rig.push(classifier(), eval=data, min_accuracy=least)
        if least < 0.7:
            assert (await push)["version"] == 1
        else:
            with pytest.raises(errors.QualityGate):
                await push
            assert rig.cloud.writer.state.models == {}

    simulate(scenario)


def test_a_file_that_is_no_model_is_refused_with_a_reason():
    """The error of the child comes through with its type."""

    async def scenario(rig):
        with pytest.raises(errors.InvalidModel):
            await rig.push(b"this is no model")
        assert rig.cloud.writer.state.models == {}

    simulate(scenario)


def test_a_full_disk_refuses_a_push_and_keeps_what_was_there():
    """It is said to the operator; the same push goes through when there is room."""

    async def scenario(rig):
        await rig.push(mlp(seed=1))
        digest = await rig.operator.upload(mlp(seed=2))
        rig.sim.disk_full("cloud")
        with pytest.raises(errors.DiskFull):
            await rig.operator.ask("model.push", name="net", file=digest)
        assert list(rig.cloud.writer.state.models["net"]) == [1]
        rig.sim.disk_full("cloud", False)
        assert (await rig.operator.ask("model.push", name="net", file=digest))["version"] == 2

    simulate(scenario)


def test_a_version_is_found_by_number_or_as_the_newest():
    """What is not there is named, with where to look."""

    async def scenario(rig):
        for seed in (1, 2):
            await rig.push(mlp(seed=seed))
        find = rig.cloud.registry.find
        assert find("net", 0)[0].version == 2
        assert find("default/net", 1)[0].version == 1
        with pytest.raises(errors.NotFound, match="net has no version 3"):
            find("net", 3)
        with pytest.raises(errors.NotFound, match=r"'cat'; msrt model list"):
            find("cat", 0)

    simulate(scenario)


def test_an_error_names_the_users_own_files():
    """Not what they are called here; a name that is no name is not used."""

    async def scenario(rig):
        bad, cat = await rig.operator.upload(b"this is no model"), await rig.operator.upload(b"no array")
        with pytest.raises(errors.InvalidModel, match=r"^cat net\.onnx is not an ONNX model"):
            await rig.operator.ask("model.push", name="net", file=bad, file_name="/home/me/cat net.onnx")
        good = await rig.operator.upload(mlp())
        with pytest.raises(errors.InvalidTensor, match=r"^pictures\.npy is neither"):
            await rig.operator.ask(
                "model.push", name="net", file=good, calibrate=cat, calibrate_name="pictures.npy", file_name=".."
            )
        for name in ("", "..", "a/..", "x\n.onnx", "y" * 300):
            with pytest.raises(errors.InvalidModel, match=r"^(model\.onnx|y{100}) is not an ONNX model"):
                await rig.operator.ask("model.push", name="net", file=bad, file_name=name)

    simulate(scenario)


def test_no_space_for_the_workshops_files_is_said_as_such():
    """The operator hears disk_full and where; nothing is registered, and the cloud lives on."""

    async def full(_path, _out, _options):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def scenario(rig):
        with pytest.raises(errors.DiskFull, match="no space left for the files of a push in"):
            await rig.push(mlp())
        assert rig.cloud.writer.state.models == {}
        assert (await rig.operator.ask("model.list")) == []

    simulate(scenario, prepare=full)
