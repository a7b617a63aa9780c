// A quantised artifact against the same graphs over the weights that its codes stand for, multiplied by in plain float32.
import { Graphs, KINDS, type Outputs, tallyOf } from './graphs.ts'
import { writePlainForm } from './plain-form.ts'
import type { SidePath } from './side-path.ts'
import { type Task, withScratch } from './task.ts'

/** `own`: the artifact's outputs with `side`. */
export async function compareDequantised(task: Task, own: Outputs, subject: string, side: SidePath): Promise<void> {
  const { artifact, manifest, probes, findings, onStep } = task
  onStep(`${subject}, dequantised`)
  const plain = await withScratch(task.host, async (scratch) => {
    await writePlainForm(artifact.folder, manifest, new Map(), scratch.out)
    return Graphs.with(scratch, manifest, (copy) => copy.run(probes, side))
  })
  for (const kind of KINDS) {
    const names = { subject, form: 'quantised', against: 'dequantised', graph: manifest.graphs[kind] }
    findings.compared(names, { rank: 1, change: 0 }, tallyOf(own[kind][0], plain[kind][0], manifest))
  }
}
