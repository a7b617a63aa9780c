// What a run in this page would take: said before anything of the base is loaded.
import type { Plan } from '../run/plan.ts'
import { planRun } from '../run/plan.ts'
import { rowShape } from '../run/row-shape.ts'
import { chooseDevice, type Device, type DeviceWish } from './device.ts'
import { type Fit, fitInPage } from './fit.ts'
import type { Job } from './job.ts'

export interface PagePlan {
  readonly plan: Plan
  readonly fit: Fit
  readonly device: Device
  readonly linears: number
  readonly steps: number
  readonly examples: number
  readonly heldOut: number
}

export async function planInPage(
  { config, spec, options, examples, heldOut }: Job,
  wish: DeviceWish,
): Promise<PagePlan> {
  const device = await chooseDevice(wish)
  const shape = rowShape(examples, options)
  const plan = planRun(config, spec, options, shape.tokens, shape.targets)
  return {
    plan,
    fit: fitInPage(plan, device, heldOut.length > 0),
    device,
    linears: spec.modules.length,
    steps: options.steps,
    examples: examples.length,
    heldOut: heldOut.length,
  }
}
