// Routed and stacked artifacts: the low-rank path of each adapter against its merged form, on both graphs.
import type { Manifest } from '../contract.ts'
import { Graphs, KINDS, type Outputs, runOne, tallyOf } from './graphs.ts'
import { writePlainForm } from './plain-form.ts'
import { compareDequantised } from './quantised.ts'
import { routedOf, type SidePath, sharedOf, stackOf } from './side-path.ts'
import { deltasOf, loadSubject, type Subject, wholeStack } from './subjects.ts'
import { type Task, withScratch } from './task.ts'

/** Adapters that share a batch, and so the memory for their slots. */
const BATCH_ADAPTERS = 4

export async function verifyLowRank(task: Task): Promise<void> {
  const { artifact, manifest, probes, findings, onStep } = task
  onStep('base')
  await Graphs.with(artifact, manifest, async (graphs) => {
    const base = await graphs.run(probes, baseSide(manifest))
    const names = { subject: 'base', form: 'base', against: manifest.graphs.model, graph: manifest.graphs.engine }
    findings.compared(names, { rank: 1, change: 0 }, tallyOf(base.engine[0], base.model[0], manifest))
    const { base: baseGraph, model } = manifest.graphs
    if (baseGraph !== undefined) {
      const logits = await runOne(artifact, manifest, baseGraph, probes)
      const plain = { subject: 'base', form: 'base', against: model, graph: baseGraph }
      findings.compared(plain, { rank: 1, change: 0 }, tallyOf(logits, base.model[0], manifest))
    }
    if (manifest.quantisation !== undefined) await compareDequantised(task, base, 'base', baseSide(manifest))
    for (let at = 0; at < manifest.adapters.length; at += BATCH_ADAPTERS) {
      const subjects: Subject[] = []
      for (const entry of manifest.adapters.slice(at, at + BATCH_ADAPTERS)) {
        subjects.push(await loadSubject(artifact.folder, manifest, entry))
      }
      await verifySubjects(task, graphs, base, subjects)
    }
    if (manifest.target === 'stacked' && manifest.adapters.length > 1) {
      await verifySubjects(task, graphs, base, [await wholeStack(artifact.folder, manifest)])
    }
  })
}

function baseSide(manifest: Manifest): SidePath {
  return manifest.target === 'stacked' ? stackOf(manifest, new Map()) : routedOf(manifest, [])
}

async function verifySubjects(task: Task, graphs: Graphs, base: Outputs, subjects: readonly Subject[]): Promise<void> {
  const { manifest, probes, findings, onStep } = task
  const outputs = await runSubjects(graphs, base, subjects, task)
  for (const [index, subject] of subjects.entries()) {
    const { name, rank } = subject
    const { own, plain } = outputs[index] as { own: Outputs; plain: Outputs }
    onStep(name)
    const deltas = await deltasOf(subject, task)
    const { change, merged } = await withScratch(task.host, async (scratch) => ({
      change: await writePlainForm(task.artifact.folder, manifest, deltas, scratch.out),
      merged: await Graphs.with(scratch, manifest, (copy) => copy.run(probes, baseSide(manifest))),
    }))
    findings.changed(name, { rank, change }, tallyOf(own.model[0], plain.model[0], manifest))
    for (const kind of KINDS) {
      const names = { subject: name, form: manifest.target, against: 'merged', graph: manifest.graphs[kind] }
      findings.compared(names, { rank, change }, tallyOf(own[kind][0], merged[kind][0], manifest))
    }
    const { shared } = manifest.graphs
    if (shared === undefined) continue
    const logits = await runOne(task.artifact, manifest, shared, probes, sharedOf(manifest, subject.modules))
    const names = { subject: name, form: manifest.target, against: 'merged', graph: shared }
    findings.compared(names, { rank, change }, tallyOf(logits, merged.engine[0], manifest))
  }
}

/** Each subject's outputs beside those of the base from a run of the same shape. Routed ones share a batch. */
async function runSubjects(
  graphs: Graphs,
  base: Outputs,
  subjects: readonly Subject[],
  { manifest, probes }: Task,
): Promise<{ own: Outputs; plain: Outputs }[]> {
  if (manifest.target === 'stacked') {
    const runs = []
    for (const { modules } of subjects) {
      runs.push({ own: await graphs.run(probes, stackOf(manifest, modules)), plain: base })
    }
    return runs
  }
  const side = routedOf(
    manifest,
    subjects.map(({ modules }) => modules),
  )
  const { model, engine } = await graphs.run(probes, side)
  const row = (index: number): Outputs => ({
    model: model.slice(index, index + 1),
    engine: engine.slice(index, index + 1),
  })
  return subjects.map((_, index) => ({ own: row(index + 1), plain: row(0) }))
}
