"""What instructions share: segmentation, descriptors, paging, events, tasks, frames, modes."""
