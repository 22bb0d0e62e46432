# Written with csrc/bind/transfer.cpp.
