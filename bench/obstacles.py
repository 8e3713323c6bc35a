"""What stands in the way of an aim, told where it is not met. Measured on 2 cores with AVX2: docs/performance.md."""

KERNELS = (
    "two thirds of a step of one stream, and three quarters of one of 32, are ONNX Runtime's 8-bit matrix products "
    "(MatMulNBits), which onnxruntime-genai calls too. On a processor without VNNI they are no faster than fp32 ones, and a "
    "row among many takes as long as alone; engines whose kernels pack weights for many rows are ahead there, and our own "
    "int8-row, which is less exact."
)

WAY_OF_A_STEP = (
    "gRPC, Triton and its Python stub take 2 to 3 ms of a step besides the forward pass, whose cores they, the gateway and "
    "the clients share; and prompts that come together are computed beside the first texts, not before them as in the loop."
)

GATEWAY = (
    "a fifth is the system's send for each token's event, a fifth the replica, a fifth the generators between the two; the "
    "rest are asyncio, gRPC and HTTP's layers, all in Python."
)

CROWD = (
    "the forward pass is what bounds us at 32 streams, as above, while the loop's rate does not fall with its clients: they "
    "take turns."
)

FLOOR = (
    "a third of such a step is not matrix products but some 250 small nodes, and the products take about one and a half "
    "times as long as memory takes to deliver their weights."
)

DRAFTS = (
    "each draft behind the first makes a step of one stream about a third longer on such a processor; the median of nine "
    "prompts varies from run to run (1.7 to 2.1 here)."
)
