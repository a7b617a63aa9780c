// The plan of a run, as the page shows it.
import type { PagePlan } from '../trainer/browser/plan.ts'

export function planRows({ plan, fit, device, linears, steps, examples, heldOut }: PagePlan): [string, string][] {
  const { trainable, baseParameters, memory, stepTokens } = plan
  const fewer = Math.round(baseParameters / trainable)
  return [
    [
      'trained',
      `${count(trainable)} parameters beside ${linears} linears, of a base of ${count(baseParameters)} (${fewer}× fewer)`,
    ],
    [
      'memory',
      `about ${mib(fit.bytes)}: base as held ${mib(memory.weightsBytes)}, activations ${mib(memory.activationBytes)}`,
    ],
    ['examples', `${count(examples)}, and ${count(heldOut)} held out to measure on`],
    ['steps', `${count(steps)}, of about ${count(stepTokens)} tokens each`],
    ['runs on', device.name],
  ]
}

function count(value: number): string {
  return value.toLocaleString('en')
}

function mib(bytes: number): string {
  return `${count(Math.ceil(bytes / 2 ** 20))} MiB`
}
