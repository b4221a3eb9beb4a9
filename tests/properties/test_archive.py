"""What holds for any file: what comes out of it is what went in."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchfit._serialization import archive


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([torch.float64, torch.float32, torch.int16, torch.uint8, torch.bool]),
            st.lists(st.integers(0, 4), max_size=3),
            st.integers(0, 3),
        ),
        max_size=6,
    )
)
def test_tensors_of_all_kinds_come_back_each_with_no_more_memory_than_its_own(tmp_path_factory, kinds):
    path = tmp_path_factory.mktemp("archive") / "file"
    tensors = [torch.randint(0, 2, (skipped + math.prod(shape),)).to(dtype) for dtype, shape, skipped in kinds]
    content = [values[skipped:].view(shape) for values, (_, shape, skipped) in zip(tensors, kinds, strict=True)]
    content += content[1:3]
    archive.prepare_write(path, content)()
    for found, given_one in zip(archive.read(path), content, strict=True):
        assert torch.equal(found, given_one)
        assert found.dtype is given_one.dtype
        assert found.untyped_storage().nbytes() <= given_one.untyped_storage().nbytes()
