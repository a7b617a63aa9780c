// A training run in a page, or rather in a worker of it: the trainer's own loop over onnxruntime-web.
import { inputError } from '../../compiler/errors.ts'
import type { Folder } from '../../compiler/host.ts'
import type { GraphSession } from '../../compiler/verify/session.ts'
import { pageHost } from '../../runtime/page.ts'
import { openWebSession } from '../../runtime/web.ts'
import type { RunFolder } from '../run/host.ts'
import { type TrainEvent, type TrainResult, train } from '../run/train.ts'
import type { Device } from './device.ts'
import type { Job } from './job.ts'
import { memoryFolder } from './memory-folder.ts'

/** What ONNX Runtime says of a kernel that was left out of a build. */
const MISSING_OPERATOR = /Could not find an implementation for (\w+)/

export interface PageBase extends Folder {
  /** Gives the memory of what was read back. */
  forget(): void
}

export interface PageRun {
  readonly job: Job
  readonly base: PageBase
  readonly baseName: string
  readonly device: Pick<Device, 'provider'>
  readonly folder: RunFolder
  readonly signal: AbortSignal
}

/** The runtime was set up before. Throws `InputError`. */
export function trainInPage(
  { job, base, baseName, device, folder, signal }: PageRun,
  onEvent: (event: TrainEvent) => void,
): Promise<TrainResult> {
  const work = memoryFolder()
  const { examples, heldOut, options } = job
  const host = {
    ...pageHost,
    run: folder,
    work,
    async openGraph(path: string): Promise<GraphSession> {
      // The weights are in the graph's own form by now.
      base.forget()
      return openWebSession(work.graph(path), device.provider).catch((error) => {
        const operator = MISSING_OPERATOR.exec(String(error))?.[1]
        if (operator === undefined) throw error
        throw inputError(
          'train-option',
          `training on this base needs the operator ${operator}, which onnxruntime-web has not on ${device.provider}; hold the base in float32, or choose another provider`,
        )
      })
    },
    now: () => performance.now(),
  }
  return train({ base, baseName, examples, heldOut, options, signal }, host, onEvent)
}
