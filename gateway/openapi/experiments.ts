// Declared: experiments, their results and verdicts, and the metrics that feedback may name.
import { z } from '@hono/zod-openapi'
import { Body, GuardrailsBody, Patch } from '../admin/experiments.ts'
import { Body as MetricBody } from '../admin/metrics.ts'
import { Digest, Id, Page } from '../admin/read-input.ts'
import { exposures } from '../database/records.ts'
import * as tables from '../database/schema.ts'
import { PromoteBody, RollBackBody } from '../experiment/give-verdict.ts'
import { forAdmins, forUsers, listOf, putOf } from './declare.ts'
import { rowOf } from './row-of.ts'

const point = z.int().min(0)
const rule = z.enum(['error', 'refusal', 'ttft'])
const status = z.enum(['draft', 'running', 'stopped'])
const Verdict = z.strictObject({ arm: Id, models: z.array(z.string()), at: z.int() })
const row = rowOf(tables.experiments, {
  status,
  namespace: z.strictObject({ id: Id, start: point, end: point }),
  guardrails: z.array(z.strictObject({ metric: rule, margin: z.number() })),
  verdict: Verdict,
})
const stoppedBy = z.strictObject({ metric: rule, margin: z.number(), difference: z.number(), atLeast: z.number() })
const Arm = rowOf(tables.arms, { adapterId: Id, baseDigest: Digest, stoppedBy }).omit({
  tenantId: true,
  experimentId: true,
  position: true,
})
const Summary = row.openapi('ExperimentSummary')
const Experiment = row.extend({ arms: z.array(Arm) }).openapi('Experiment')
const Exposure = rowOf(exposures).openapi('Exposure')
const Metric = rowOf(tables.metrics).openapi('Metric')

const Against = z.strictObject({
  difference: z.number(),
  relative: z.number().nullable(),
  interval: z.tuple([z.number(), z.number()]).nullable(),
  p: z.number().nullable(),
  verdict: z.enum(['better', 'worse', 'open']),
})
const figure = { subjects: z.int(), observations: z.int(), mean: z.number().nullable() }
const Figures = z.record(z.string(), z.strictObject({ ...figure, vsControl: Against.optional() }))
const Ratio = z.strictObject({ p: z.number(), mismatch: z.boolean() }).nullable()
const Results = z
  .strictObject({
    experiment: Id,
    bucketVersion: z.int(),
    status,
    coverage: point,
    verdict: Verdict.nullable(),
    sampleRatio: z.strictObject({ assigned: Ratio, analysed: Ratio }),
    arms: z.array(
      z.strictObject({
        id: Id,
        weight: point,
        stopped: z.strictObject({ at: z.int(), by: stoppedBy.nullable() }).nullable(),
        exposed: z.int(),
        analysed: z.int(),
        metrics: Figures,
      }),
    ),
    shadows: z.array(z.strictObject({ id: Id, metrics: Figures })),
  })
  .openapi('Results')
const Stops = z.strictObject({ stopped: z.array(stoppedBy.extend({ arm: Id })) }).openapi('Stops')

const tag = 'Experiments'
const OF_ONE = '/tenants/:tenant/experiments/:experiment'
const verdicts = ['unknown_reference', 'arm_stopped', 'changed_meanwhile']

export const experiments = [
  forUsers('post', '/v1/experiments/:experiment/promote', {
    tag,
    summary: 'Point the models of an experiment at an arm, for who may promote it and the control.',
    params: { experiment: z.string() },
    body: PromoteBody,
    codes: verdicts,
    finds: true,
    answers: { 200: Experiment },
  }),
  forUsers('post', '/v1/experiments/:experiment/roll-back', {
    tag,
    summary: 'Point the models of an experiment at its control, for who may promote it.',
    params: { experiment: z.string() },
    body: RollBackBody,
    codes: verdicts,
    finds: true,
    answers: { 200: Experiment },
  }),
  forAdmins('get', '/tenants/:tenant/experiments', {
    tag,
    summary: 'Experiments of a tenant.',
    answers: { 200: listOf(Summary) },
  }),
  forAdmins('get', OF_ONE, { tag, summary: 'One, with its arms.', finds: true, answers: { 200: Experiment } }),
  forAdmins('put', OF_ONE, {
    tag,
    summary: 'Draft an experiment; what it is made of cannot be changed afterwards.',
    body: Body,
    codes: ['unknown_reference', 'immutable'],
    answers: putOf(Experiment),
  }),
  forAdmins('patch', OF_ONE, {
    tag,
    summary: 'Start or stop it, move its ramp; other weights begin a new version.',
    body: Patch,
    finds: true,
    answers: { 200: Experiment },
  }),
  forAdmins('get', `${OF_ONE}/results`, {
    tag,
    summary: 'What it has found so far, valid at every look.',
    finds: true,
    answers: { 200: Results },
  }),
  forAdmins('post', `${OF_ONE}/guardrails`, {
    tag,
    summary: 'Look now whether a guardrail stops an arm.',
    body: GuardrailsBody,
    finds: true,
    answers: { 200: Stops },
  }),
  forAdmins('post', `${OF_ONE}/promote`, {
    tag,
    summary: 'End it: its models lead to the arm.',
    body: PromoteBody,
    codes: verdicts,
    finds: true,
    answers: { 200: Experiment },
  }),
  forAdmins('post', `${OF_ONE}/roll-back`, {
    tag,
    summary: 'End it: its models lead to the control, also after a promotion.',
    body: RollBackBody,
    codes: verdicts,
    finds: true,
    answers: { 200: Experiment },
  }),
  forAdmins('get', `${OF_ONE}/exposures`, {
    tag,
    summary: 'Who was exposed to which arm, newest first.',
    query: Page,
    answers: { 200: listOf(Exposure) },
  }),
  forAdmins('get', '/tenants/:tenant/metrics', { tag, summary: 'Metrics.', answers: { 200: listOf(Metric) } }),
  forAdmins('put', '/tenants/:tenant/metrics/:metric', {
    tag,
    summary: 'Define a metric that feedback may name; it cannot be changed afterwards.',
    body: MetricBody,
    codes: ['unknown_reference', 'already_exists', 'immutable'],
    answers: putOf(Metric),
  }),
]
