"""The FAISS retrieval index: build, tune by measured recall, add, remove, save; the bundle that serving loads."""
