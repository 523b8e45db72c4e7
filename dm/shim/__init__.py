"""The other side: the client library a hypervisor uses, and a small PC that boots images with no hypervisor."""
