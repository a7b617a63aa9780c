// `sidepath can KEY MODEL`: may this key do that, and which grant says so? The answer is the gateway's own decision.
import { z } from 'zod'
import { ACTIONS } from '../gateway/policy/actions.ts'
import { askGateway } from './ask-gateway.ts'
import { UserError } from './fail.ts'
import { table } from './table.ts'

export interface CanOptions {
  readonly gateway: string
  readonly action: string
  readonly json?: boolean
}

const KEY_ID = /^(?:sp_[a-z0-9]+_)?([0-9A-Za-z]{16})(?:_|$)/

const Decision = z.object({
  allowed: z.boolean(),
  grantId: z.string().optional(),
  reason: z.string().optional(),
  parent: z.string().optional(),
})
const Explanation = z.looseObject({
  live: z.boolean(),
  model: z.string(),
  targets: z.array(
    z.looseObject({
      part: z.string().optional(),
      arm: z.string().nullable(),
      target: z.looseObject({ kind: z.string(), id: z.string().optional(), baseDigest: z.string() }),
      decision: Decision,
    }),
  ),
})
type Explanation = z.output<typeof Explanation>

/** Exit 0: it may; 3: it may not, which is an answer and no failure. */
const EXIT_NO = 3

export async function canCommand(key: string, model: string, { gateway, action, json }: CanOptions): Promise<void> {
  const keyId = KEY_ID.exec(key)?.[1]
  if (keyId === undefined) {
    throw new UserError(`"${key.slice(0, 8)}…" is no key and no id of one; an id is 16 letters and digits.`)
  }
  if (!ACTIONS.some((known) => known === action)) {
    throw new UserError(`--action "${action}" is no act; there are ${ACTIONS.join(', ')}.`)
  }
  const explanation = await explain(gateway, { key: keyId, model, action })
  const may = isAllowed(explanation)
  process.stdout.write(
    `${json ? JSON.stringify({ may, ...explanation }) : describe(explanation, keyId, model, action)}\n`,
  )
  if (!may) process.exitCode = EXIT_NO
}

/** Every part of a mix; the first arm, which is the control, of an experiment. */
function isAllowed({ live, model, targets }: Explanation): boolean {
  const arms = Map.groupBy(targets, ({ part }) => part ?? '')
  return live && model === 'known' && arms.size > 0 && [...arms.values()].every(([first]) => first?.decision.allowed)
}

function describe(explanation: Explanation, keyId: string, model: string, action: string): string {
  const { live, targets } = explanation
  const head = `${keyId} ${isAllowed(explanation) ? 'may' : 'may not'} ${action} ${model}`
  if (!live) return `${head}: the key, its user or its tenant is disabled, or the key has expired`
  if (targets.length === 0) return `${head}: its tenant has no enabled model of that name`
  const rows = targets.map(({ part, arm, target, decision }) => [
    part ?? arm ?? model,
    target.id ?? `base ${target.baseDigest.slice(0, 12)}`,
    decision.allowed ? 'yes' : 'no',
    decision.grantId === undefined
      ? (decision.reason ?? '')
      : `${decision.reason ?? 'allowed'} by grant ${decision.grantId}`,
    decision.parent === undefined ? '' : `through ${decision.parent}, which is merged into it`,
  ])
  return `${head}\n\n${table(['of', 'runs', 'allowed', 'because', ''], rows)}`
}

async function explain(gateway: string, body: object): Promise<Explanation> {
  const explanation = await askGateway(gateway, '/explain', Explanation, body)
  if (explanation === null) throw new UserError('the gateway knows no user key of that id; admin keys use no models.')
  return explanation
}
