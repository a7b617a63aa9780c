// Evaluation: a run ends when the held-out loss gets no better, and what it leaves is the best that there was.
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { transpose } from '../../compiler/adapter/low-rank.ts'
import { makeBatch } from '../../trainer/data/batch.ts'
import { countTargets } from '../../trainer/data/example.ts'
import { trainingNames as names } from '../../trainer/graph/names.ts'
import { selectLora } from '../../trainer/lora/select.ts'
import { loraParameters } from '../../trainer/run/parameters.ts'
import { LORA, openLearning, readTensors } from './learning.ts'
import { trainInProcess } from './train-in-process.ts'
import { basePath, examples, trainOptions } from './trained-cases.ts'

it('ends after as many evaluations without a gain as patience says, with the parameters of the best', async () => {
  const base = basePath('mistral')
  const lora = { ...LORA, r: 3, targetModules: 'mlp' }
  const options = { ...trainOptions(lora), steps: 60, evalEvery: 1, patience: 3 }
  const out = await mkdtemp(join(tmpdir(), 'sidepath-early-'))
  // Random texts teach nothing about other random texts: the held-out loss soon rises.
  const heldOut = examples.slice(5)
  const result = await trainInProcess(base, 'mistral', options, examples.slice(0, 5), heldOut, out)
  expect(result.isStoppedEarly).toBe(true)
  expect(result.isFinished).toBe(true)
  const losses = (await readFile(join(out, 'metrics.jsonl'), 'utf8'))
    .trim()
    .split('\n')
    .flatMap((line) => (JSON.parse(line) as { heldOutLoss?: number }).heldOutLoss ?? [])
  const best = Math.min(...losses)
  expect(result.bestLoss).toBe(best)
  expect(losses.indexOf(best)).toBe(losses.length - 1 - options.patience)
  expect(result.step).toBe(losses.length - 1)
  expect(result.heldOutLossBefore).toBe(losses[0])

  await using learning = await openLearning({ base, lora, gradients: false })
  const spec = selectLora(learning.checkpoint.config.architecture, lora)
  const parameters = loraParameters(spec)
  const saved = await readTensors(join(out, 'adapter/adapter_model.safetensors'))
  await rm(out, { recursive: true })
  for (const { linear, r } of spec.modules) {
    const of = (factor: string) => saved.get(`base_model.model.${linear.module}.${factor}.weight`)?.data as Float32Array
    parameters.of(names.loraA(linear.module)).set(transpose(of('lora_A'), r, linear.in))
    parameters.of(names.loraB(linear.module)).set(transpose(of('lora_B'), linear.out, r))
  }
  const { feeds } = makeBatch(
    heldOut.map((example) => [example]),
    1 / countTargets(heldOut),
    2,
  )
  const again = await learning.session.run({ ...parameters.feeds(), ...feeds })
  expect(Math.abs((again[names.loss]?.data[0] as number) / best - 1)).toBeLessThan(1e-6)
})

it('refuses to go on where the loss is no longer a number, and says what to do', async () => {
  const out = await mkdtemp(join(tmpdir(), 'sidepath-diverge-'))
  const options = {
    ...trainOptions({ ...LORA, r: 3 }),
    learningRate: 1,
    maxGradNorm: 1e6,
    steps: 500,
    loraPlusRatio: 1024,
  }
  const run = trainInProcess(basePath('llama-llama3'), 'llama', options, examples, [], out)
  await expect(run).rejects.toMatchObject({
    code: 'train-state',
    message: expect.stringMatching(/lower the learning rate of 1/),
  })
  await rm(out, { recursive: true })
})
