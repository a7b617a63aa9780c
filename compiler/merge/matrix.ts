// What the merge needs from whoever hosts it: threads that run the kernel over one shared memory.

/** Several instances of one WebAssembly module on one memory. */
export interface Lanes {
  readonly buffer: ArrayBufferLike
  /** Runs an exported function of i32 parameters and result, when a lane is free. */
  run(name: string, args: readonly number[]): Promise<number>
  close(): Promise<void>
}

export interface OpenLanes {
  /** How many run at the same time. */
  readonly lanes: number
  /** `assemble`: the module, which imports `env.memory` of exactly `pages` pages, shared between threads or not. */
  open(assemble: (shared: boolean) => Uint8Array<ArrayBuffer>, pages: number): Promise<Lanes>
}

export const PAGE_BYTES = 65_536
