def quantize(*a):
    raise NotImplementedError
