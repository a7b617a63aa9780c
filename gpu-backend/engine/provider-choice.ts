// The names of what can run a graph.

/** `cpu` and `cuda` are onnxruntime-node, `webgpu` and `wasm` onnxruntime-web. */
export type Provider = 'cpu' | 'cuda' | 'webgpu' | 'wasm'
/** `auto`: a GPU where one can be used, else the CPU. A device that is software never counts as a GPU. */
export type ProviderChoice = Provider | 'auto'

export const PROVIDER_CHOICES = ['cpu', 'cuda', 'webgpu', 'wasm', 'auto'] as const satisfies readonly ProviderChoice[]
