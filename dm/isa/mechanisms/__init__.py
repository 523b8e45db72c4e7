"""What instructions share and no instruction is: segmentation, descriptors, paging, events, tasks, frames, modes."""
