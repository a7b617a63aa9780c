// One lane in the calling thread: for a browser without shared memory, and for tests.
import type { Lanes, OpenLanes } from './matrix.ts'

/** The part of WebAssembly that is used here; not every host's types declare it. */
declare const WebAssembly: {
  Memory: new (limits: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer }
  instantiate(
    bytes: Uint8Array<ArrayBuffer>,
    imports: { env: { memory: unknown } },
  ): Promise<{ instance: { exports: Readonly<Record<string, (...args: number[]) => number>> } }>
}

export const inlineLanes: OpenLanes = {
  lanes: 1,
  async open(assemble, pages): Promise<Lanes> {
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages })
    const { instance } = await WebAssembly.instantiate(assemble(false), { env: { memory } })
    return {
      buffer: memory.buffer,
      async run(name, args) {
        const run = instance.exports[name]
        if (run === undefined) throw new Error(`sidepath bug: the module has no function ${name}`)
        return run(...args)
      },
      async close() {},
    }
  },
}
