// The kinds of backend that the gateway can speak to. `sidepath` is our own; all others are foreign.

export const DRIVER_NAMES = ['sidepath', 'vllm', 'sglang', 'lorax', 'llama-cpp', 'workers-ai', 'openai'] as const

export type DriverName = (typeof DRIVER_NAMES)[number]
