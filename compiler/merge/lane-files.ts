// Where the host's lanes can read the base's file and write the new one, a block passes through no other thread.
import type { ByteSink, ByteSource, RandomSink } from '../host.ts'
import type { Transfer } from './matrix.ts'
import type { Workspace } from './workspace.ts'

/** What is in the file already, in bytes, or bytes that are still to be written. */
export type Piece = Uint8Array | number

export interface LaneFiles {
  readonly sink: RandomSink
  read(offset: number, length: number, address: number): Transfer
  write(offset: number, length: number, address: number): Transfer
}

export function openLaneFiles(source: ByteSource, sink: ByteSink, workspace: Workspace): LaneFiles | undefined {
  const { laneFile } = source
  const { random } = sink
  if (laneFile === undefined || random === undefined || !workspace.streams) return undefined
  return {
    sink: random,
    read: (offset, length, address) => ({ file: laneFile, offset, length, address }),
    write: (offset, length, address) => ({ file: random.laneFile, offset, length, address }),
  }
}
