BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE sensitivity_layers (
	calibration VARCHAR(64) NOT NULL, 
	assignment VARCHAR(64) NOT NULL, 
	error FLOAT NOT NULL, 
	PRIMARY KEY (calibration, assignment)
);
INSERT INTO "sensitivity_layers" VALUES('calibration','x[0]',0.01);
INSERT INTO "sensitivity_layers" VALUES('calibration','x[1]',0.02);
INSERT INTO "sensitivity_layers" VALUES('calibration','x[2]',0.03);
INSERT INTO "sensitivity_layers" VALUES('calibration','x[3]',0.04);
CREATE TABLE sensitivity_meta (
	"key" VARCHAR(64) NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "sensitivity_meta" VALUES('schema','1');
CREATE TABLE sensitivity_scores (
	evaluation VARCHAR(64) NOT NULL, 
	assignment VARCHAR(64) NOT NULL, 
	net VARCHAR(32) NOT NULL, 
	mean FLOAT NOT NULL, 
	score JSON NOT NULL, 
	seconds FLOAT NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	PRIMARY KEY (evaluation, assignment)
);
INSERT INTO "sensitivity_scores" VALUES('evaluation','44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a','tiny',0.0,'{"net": "tiny", "mean": 0.0, "per_prompt": [0.0, 0.0, 0.0], "noise_floor": null}',1.0,'2026-11-29T09:16:39+00:00');
INSERT INTO "sensitivity_scores" VALUES('evaluation','a1eaa7afc91ada390753aca292c69f2cb565a556f8c62d14949d70ff5dd4f9f7','tiny',6.00394312990829362441e-02,'{"net": "tiny", "mean": 0.060039431299082936, "per_prompt": [0.06961640602722764, 0.05148888270929456, 0.059013005160726606], "noise_floor": null}',1.0,'2026-11-29T09:16:39+00:00');
INSERT INTO "sensitivity_scores" VALUES('evaluation','abc14a454d281bba7592781cc0af3c52c7df639e036caa6f6e305f11855cd704','tiny',3.11042447711030629886e-02,'{"net": "tiny", "mean": 0.031104244771103063, "per_prompt": [0.03580933517124504, 0.023842186051420865, 0.03366121309064329], "noise_floor": null}',1.0,'2026-11-29T09:16:39+00:00');
CREATE TABLE sensitivity_shape_times (
	machine VARCHAR(64) NOT NULL, 
	compile_mode VARCHAR(32) NOT NULL, 
	shape VARCHAR(128) NOT NULL, 
	described JSON NOT NULL, 
	"row" JSON NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	PRIMARY KEY (machine, compile_mode, shape)
);
INSERT INTO "sensitivity_shape_times" VALUES('46ce55b352f3132ce4bb6666b52daae3ca36e894d7a32d64958e46420126e652','default','64x64x64','{"gpu": "b200"}','{"us": [1.5, 1.25]}','2026-11-29T09:16:39+00:00');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'fake-nvfp4-b200-01234567');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MINIMIZE',1,0);
INSERT INTO "study_directions" VALUES(2,'MINIMIZE',1,1);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_system_attributes" VALUES(1,1,'study:metric_names','["latency_s", "lpips"]');
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'sensitivity','1');
INSERT INTO "study_user_attributes" VALUES(2,1,'settings','{"model": "fake", "formats": ["nvfp4"], "target": "b200", "budget": 3, "seed": 0, "sampler": "knapsack"}');
INSERT INTO "study_user_attributes" VALUES(3,1,'errors','[[0, 1, 0.01], [1, 1, 0.02], [2, 1, 0.03], [3, 1, 0.04]]');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'choice','"[0, 0, 0, 0]"');
INSERT INTO "trial_user_attributes" VALUES(2,1,'index','0');
INSERT INTO "trial_user_attributes" VALUES(3,1,'label','"none"');
INSERT INTO "trial_user_attributes" VALUES(4,1,'seconds','1.0');
INSERT INTO "trial_user_attributes" VALUES(5,1,'score','"{\"net\": \"tiny\", \"mean\": 0.0, \"per_prompt\": [0.0, 0.0, 0.0], \"noise_floor\": null}"');
INSERT INTO "trial_user_attributes" VALUES(6,2,'choice','"[1, 1, 1, 1]"');
INSERT INTO "trial_user_attributes" VALUES(7,2,'index','1');
INSERT INTO "trial_user_attributes" VALUES(8,2,'label','"all nvfp4"');
INSERT INTO "trial_user_attributes" VALUES(9,2,'seconds','1.0');
INSERT INTO "trial_user_attributes" VALUES(10,2,'score','"{\"net\": \"tiny\", \"mean\": 0.060039431299082936, \"per_prompt\": [0.06961640602722764, 0.05148888270929456, 0.059013005160726606], \"noise_floor\": null}"');
INSERT INTO "trial_user_attributes" VALUES(11,3,'choice','"[1, 0, 0, 1]"');
INSERT INTO "trial_user_attributes" VALUES(12,3,'index','2');
INSERT INTO "trial_user_attributes" VALUES(13,3,'label','""');
INSERT INTO "trial_user_attributes" VALUES(14,3,'seconds','1.0');
INSERT INTO "trial_user_attributes" VALUES(15,3,'score','"{\"net\": \"tiny\", \"mean\": 0.031104244771103063, \"per_prompt\": [0.03580933517124504, 0.023842186051420865, 0.03366121309064329], \"noise_floor\": null}"');
INSERT INTO "trial_user_attributes" VALUES(16,4,'choice','"[0, 1, 0, 0]"');
INSERT INTO "trial_user_attributes" VALUES(17,4,'reason','"out of memory"');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,3.0,'FINITE');
INSERT INTO "trial_values" VALUES(2,1,1,0.0,'FINITE');
INSERT INTO "trial_values" VALUES(3,2,0,2.42,'FINITE');
INSERT INTO "trial_values" VALUES(4,2,1,6.00394312990829362441e-02,'FINITE');
INSERT INTO "trial_values" VALUES(5,3,0,2.71,'FINITE');
INSERT INTO "trial_values" VALUES(6,3,1,3.11042447711030629886e-02,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-29 09:16:39.248716','2026-11-29 09:16:39.270372');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-29 09:16:39.278426','2026-11-29 09:16:39.292318');
INSERT INTO "trials" VALUES(3,2,1,'COMPLETE','2026-11-29 09:16:39.297233','2026-11-29 09:16:39.310208');
INSERT INTO "trials" VALUES(4,3,1,'FAIL','2026-11-29 09:16:39.314853','2026-11-29 09:16:39.321243');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
