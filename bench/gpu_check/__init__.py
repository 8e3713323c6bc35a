"""`make gpu-check`: the whole stack on the GPU of this machine, checked and measured beside what people use now."""
