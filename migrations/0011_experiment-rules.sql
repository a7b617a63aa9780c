-- Metrics are part of the registry: every change of them moves the tenant's epoch, as in 0005.
CREATE TRIGGER `metrics_insert_epoch` AFTER INSERT ON `metrics` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `metrics_update_epoch` AFTER UPDATE ON `metrics` BEGIN
  INSERT INTO `policy_epochs` SELECT NEW.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = NEW.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = NEW.`tenant_id`;
END;
--> statement-breakpoint
CREATE TRIGGER `metrics_delete_epoch` AFTER DELETE ON `metrics` BEGIN
  INSERT INTO `policy_epochs` SELECT OLD.`tenant_id`, 0 WHERE NOT EXISTS (SELECT 1 FROM `policy_epochs` WHERE `tenant_id` = OLD.`tenant_id`);
  UPDATE `policy_epochs` SET `epoch` = (SELECT max(`epoch`) + 1 FROM `policy_epochs`) WHERE `tenant_id` = OLD.`tenant_id`;
END;
--> statement-breakpoint
-- Records are written once or settled once.
CREATE TRIGGER `outcomes_no_update` BEFORE UPDATE ON `outcomes` BEGIN SELECT RAISE(ABORT, 'outcomes are write-once'); END;
--> statement-breakpoint
CREATE TRIGGER `shadows_settle_once` BEFORE UPDATE ON `shadows` WHEN OLD.`status` <> 'open' BEGIN SELECT RAISE(ABORT, 'shadows are settled once'); END;
--> statement-breakpoint
-- Of two verdicts on one state of an experiment the second fails, and takes its whole batch with it.
CREATE TRIGGER `experiments_one_verdict` BEFORE UPDATE OF `verdicts` ON `experiments` WHEN NEW.`verdicts` <> OLD.`verdicts` + 1 BEGIN SELECT RAISE(ABORT, 'another verdict was given'); END;
--> statement-breakpoint
-- Likewise of two stops of one arm: the first one's evidence stands.
CREATE TRIGGER `arms_stop_once` BEFORE UPDATE OF `stopped_at` ON `arms` WHEN OLD.`stopped_at` IS NOT NULL BEGIN SELECT RAISE(ABORT, 'the arm is stopped already'); END;
