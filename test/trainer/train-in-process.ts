// A training run in the test's own process, into a folder.
import { join } from 'node:path'
import { nodeHost, openFolder, openWorkFolder, stageFolder } from '../../runtime/disk.ts'
import { openSession } from '../../runtime/node.ts'
import type { Example } from '../../trainer/data/example.ts'
import type { TrainOptions } from '../../trainer/run/options.ts'
import { type TrainResult, train } from '../../trainer/run/train.ts'

export async function trainInProcess(
  base: string,
  baseName: string,
  options: TrainOptions,
  examples: readonly Example[],
  heldOut: readonly Example[],
  out: string,
): Promise<TrainResult> {
  const work = await stageFolder(join(out, 'work'))
  try {
    const openGraph = (path: string) => openSession(join(work.path, path), { threads: 1, prepack: false })
    let clock = 0
    const now = () => {
      clock += 1000
      return clock
    }
    const host = { ...nodeHost, run: await openWorkFolder(out), work, openGraph, now }
    return await train({ base: openFolder(base), baseName, examples, heldOut, options }, host)
  } finally {
    await work.discard()
  }
}
