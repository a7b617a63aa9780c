// Adapters that were trained here, as PEFT loads them (trained-oracle.py): the same logits; and training writes them still.
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { transpose } from '../../compiler/adapter/low-rank.ts'
import { readChanges } from '../../compiler/adapter/read-changes.ts'
import { requiredTensors } from '../../compiler/checkpoint/names.ts'
import { openFolder } from '../../runtime/disk.ts'
import { makeBatch } from '../../trainer/data/batch.ts'
import { trainingNames as names } from '../../trainer/graph/names.ts'
import { selectLora } from '../../trainer/lora/select.ts'
import { loraParameters } from '../../trainer/run/parameters.ts'
import { compileToDisk } from '../compiler/folders.ts'
import { fillBank, loadAdapter, ModelRunner } from '../compiler/runner.ts'
import { openLearning, readTensors } from './learning.ts'
import { trainInProcess } from './train-in-process.ts'
import { asked, basePath, examples, TRAINED, trainedCases, trainOptions } from './trained-cases.ts'

const { losses } = JSON.parse(await readFile(join(TRAINED, 'trained.json'), 'utf8')) as {
  losses: Record<string, number>
}

describe.each(trainedCases)('%s', (name, { base, lora }) => {
  // An artifact has no DoRA, whose loss is compared below; PiSSA's was trained on another base, and is compared here.
  if (!lora.useDora)
    it('has the logits of PEFT when it is served', async () => {
      await using artifact = await compileToDisk({
        base: openFolder(basePath(base)),
        adapters: [{ name, folder: openFolder(join(TRAINED, name)), weight: 1 }],
        target: 'routed',
      })
      const model = await ModelRunner.open(artifact.path, artifact.manifest)
      const [entry] = artifact.manifest.adapters
      const bank = fillBank(artifact.manifest, [await loadAdapter(artifact.path, artifact.manifest, entry!)], 14)
      const { logits } = await model.step([{ ids: asked.ids, adapter: name }], 0, asked.ids.length, bank)
      await model.release()
      const wanted = (await readTensors(join(TRAINED, `${name}.logits.safetensors`))).get('logits')!
      const vocab = wanted.shape[1]!
      logits[0]!.forEach((row, at) => {
        row.forEach((logit, token) => {
          expect(Math.abs(logit - wanted.data[at * vocab + token]!)).toBeLessThan(2e-4)
        })
      })
    })

  if (lora.init !== 'pissa')
    it('has the loss of PEFT in the graph that it was trained in', async () => {
      await using learning = await openLearning({ base: basePath(base), lora, gradients: false })
      const { config } = learning.checkpoint
      const spec = selectLora(config.architecture, lora)
      const parameters = loraParameters(spec)
      const tensors = new Map(
        [...requiredTensors(config)].map(([tensor, shape]) => [tensor, { dtype: 'F32' as const, shape }]),
      )
      const { changes } = await readChanges({ name, folder: openFolder(join(TRAINED, name)) }, tensors)
      expect(changes).toHaveLength(spec.modules.length)
      for (const change of changes) {
        if (change.kind !== 'low-rank') throw new Error(`${change.tensor} is no low-rank change`)
        const { A, B, r, out, magnitude } = change
        const module = change.tensor.slice(0, -'.weight'.length)
        expect(change.scaling).toBeCloseTo(
          spec.modules.find(({ linear }) => linear.module === module)?.scaling ?? 0,
          12,
        )
        parameters.of(names.loraA(module)).set(transpose(A, r, change.in))
        parameters.of(names.loraB(module)).set(transpose(B, out, r))
        if (magnitude !== undefined) parameters.of(names.magnitude(module)).set(magnitude)
      }
      const scale = 1 / asked.isTarget.filter(Boolean).length
      const results = await learning.session.run({ ...parameters.feeds(), ...makeBatch([[asked]], scale, 2).feeds })
      expect(Math.abs((results[names.loss]?.data[0] as number) / losses[name]! - 1)).toBeLessThan(1e-5)
    })

  it('is what training writes', async () => {
    const out = await mkdtemp(join(tmpdir(), 'sidepath-trained-'))
    const result = await trainInProcess(basePath(base), base, trainOptions(lora), examples, [], out)
    expect(result.isFinished).toBe(true)
    expect(await readFile(join(out, 'adapter/adapter_config.json'), 'utf8')).toBe(
      await readFile(join(TRAINED, name, 'adapter_config.json'), 'utf8'),
    )
    const [now, then] = await Promise.all(
      [join(out, 'adapter'), join(TRAINED, name)].map((folder) =>
        readTensors(join(folder, 'adapter_model.safetensors')),
      ),
    )
    await rm(out, { recursive: true })
    expect([...now!.keys()]).toEqual([...then!.keys()])
    for (const [tensor, { shape, data }] of now!) {
      const before = then!.get(tensor)!
      expect(shape).toEqual(before.shape)
      const [error, norm] = data.reduce(([e, n], x, at) => [e! + (x - before.data[at]!) ** 2, n! + x * x], [0, 0])
      // Another machine rounds in another order, and ten steps at a high rate enlarge that.
      expect(Math.sqrt(error! / norm!), tensor).toBeLessThan(1e-2)
    }
  })
})
