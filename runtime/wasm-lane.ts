// The thread of one lane: instantiates the module that it is given, and answers calls by name.
import { parentPort, workerData } from 'node:worker_threads'
import type { Answer, Call } from './wasm-lanes.ts'

/** The part of WebAssembly that is used here; Node's types do not declare it. */
declare const WebAssembly: {
  Instance: new (
    module: object,
    imports: { env: { memory: object } },
  ) => { readonly exports: Readonly<Record<string, (...args: number[]) => number>> }
}

const { module, memory } = workerData as { module: object; memory: object }
const { exports } = new WebAssembly.Instance(module, { env: { memory } })

parentPort?.on('message', ({ name, args }: Call) => {
  parentPort?.postMessage(answer(name, args))
})

function answer(name: string, args: readonly number[]): Answer {
  const run = exports[name]
  if (run === undefined) return { error: `the module has no function ${name}` }
  try {
    return { result: run(...args) }
  } catch (error) {
    return { error: String(error) }
  }
}
